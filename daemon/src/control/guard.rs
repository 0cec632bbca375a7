//! The engine as somebody sees it who may not do everything.
//!
//! Volumes of projects that it does not see are not there: what is said of them is what is said of names that nobody has
//! given. Their names are still taken.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Detach};
use cairn_api::error::ApiError;
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, Image, ImageList, ImageQuery, Import, PassingSnapshot,
};
use cairn_api::info::Info;
use cairn_api::job::{Job, JobList, JobQuery};
use cairn_api::list::most;
use cairn_api::pool::{CreatePool, GrowPool, PoolEntry, PoolList, PoolStatus, Scrub, StartScrub};
use cairn_api::recycle::{Recover, RecycleBin, SetRecycleBin};
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, Diff, DiffQuery, EditSnapshot, ResetSnapshotStatus, Rollback,
    RolledBack, Snapshot, SnapshotList, SnapshotQuery, Tree, TreeNode,
};
use cairn_api::staging::{CreateStaging, Staged, Staging};
use cairn_api::stats::Stats;
use cairn_api::types::{
    CreateQosPolicy, CreateType, EditQosPolicy, EditType, QosPolicy, QosPolicyList, Retype, SetVolumeQos,
    TypeList, VolumeQos, VolumeType,
};
use cairn_api::volume::{
    CreateRestore, CreateVolume, DEFAULT_PROJECT, DeleteVolumeQuery, EditVolume, ResetStatus, Volume,
    VolumeList, VolumeQuery,
};

use super::context::invalid;
use super::engine::{Engine, Pending};
use super::{convert, jobs, list, recycle};
use crate::access::{Limits, forbidden};
use crate::events::Events;
use crate::pools::no_volume;

/// An engine within somebody's limits.
pub struct Guarded {
    engine: Arc<dyn Engine>,
    limits: Arc<Limits>,
}

/// What somebody wants of a volume.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Want {
    Look,
    Change,
}

impl Limits {
    fn allow(&self, want: Want, project: &str, volume: &str) -> Result<(), ApiError> {
        if !self.see.has(project) {
            return Err(unseen(volume));
        }
        match want {
            Want::Change if !self.change.contains(project) => Err(forbidden(format!(
                "you may look at the volume '{volume}', of the project '{project}', but not change it"
            ))),
            Want::Look | Want::Change => Ok(()),
        }
    }

    /// The project of something new.
    fn project(&self, asked: Option<String>) -> Result<String, ApiError> {
        match asked {
            Some(project) if self.change.contains(&project) => Ok(project),
            Some(project) => Err(forbidden(format!("you are no member of the project '{project}'"))),
            None if self.change.contains(DEFAULT_PROJECT) => Ok(DEFAULT_PROJECT.to_owned()),
            None => {
                let mut members = self.change.iter();
                match (members.next(), members.next()) {
                    (Some(only), None) => Ok(only.clone()),
                    (None, _) => Err(no_member()),
                    _ => Err(invalid("you are member of several projects: say in which with --project")),
                }
            }
        }
    }
}

/// What is answered about what somebody does not see.
fn unseen(volume: &str) -> ApiError {
    convert::error(&cairn_cow::Error::new(cairn_cow::ErrorKind::NotFound, no_volume(volume)))
}

fn no_member() -> ApiError {
    forbidden("you are member of no project: you may look, not change")
}

fn administrators(what: &str) -> ApiError {
    forbidden(format!("only administrators may {what}"))
}

fn failed<T: 'static>(error: ApiError) -> Pending<T> {
    Box::pin(async move { Err(error) })
}

fn refuse<T: 'static>(what: &str) -> Pending<T> {
    failed(administrators(what))
}

impl Guarded {
    /// `engine` within `limits`.
    pub fn new(engine: Arc<dyn Engine>, limits: Arc<Limits>) -> Guarded {
        Guarded { engine, limits }
    }

    /// Calls the engine if everything that is wanted of these volumes is allowed.
    fn of_volumes<T: Send + 'static>(
        &self,
        want: Want,
        volumes: Vec<String>,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send + 'static,
    ) -> Pending<T> {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&self.limits));
        Box::pin(async move {
            for name in volumes {
                let volume = engine.volume(name.clone()).await?;
                limits.allow(want, &volume.project, &name)?;
            }
            call(&*engine).await
        })
    }

    fn look<T: Send + 'static>(
        &self,
        volume: &str,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send + 'static,
    ) -> Pending<T> {
        self.of_volumes(Want::Look, vec![volume.to_owned()], call)
    }

    fn change<T: Send + 'static>(
        &self,
        volume: &str,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send + 'static,
    ) -> Pending<T> {
        self.of_volumes(Want::Change, vec![volume.to_owned()], call)
    }

    /// Calls the engine for something in the recycle bin.
    fn recycled<T: Send + 'static>(
        &self,
        id: String,
        call: impl FnOnce(&dyn Engine) -> Pending<T> + Send + 'static,
    ) -> Pending<T> {
        let (engine, limits) = (Arc::clone(&self.engine), Arc::clone(&self.limits));
        Box::pin(async move {
            let bin = engine.recycle_bin().await?.volumes;
            let found = bin.iter().find(|found| found.id == id && limits.see.has(&found.project));
            let found = found.ok_or_else(|| recycle::missing(&id))?;
            limits.allow(Want::Change, &found.project, &found.name)?;
            call(&*engine).await
        })
    }

    /// Calls the engine for something that only whoever made it knows the id of.
    fn member<T: Send + 'static>(&self, call: impl FnOnce(&dyn Engine) -> Pending<T>) -> Pending<T> {
        if self.limits.change.is_empty() { failed(no_member()) } else { call(&*self.engine) }
    }

    /// Makes something new in the project that is asked for, or that it is in otherwise.
    fn in_project<T: 'static>(
        &self,
        asked: Option<String>,
        make: impl FnOnce(Option<String>) -> Pending<T>,
    ) -> Pending<T> {
        self.limits.project(asked).map_or_else(failed, |project| make(Some(project)))
    }

    fn names(&self) -> Pending<HashSet<String>> {
        let all = self.volumes(VolumeQuery::default());
        Box::pin(async move { Ok(all.await?.volumes.into_iter().map(|volume| volume.name).collect()) })
    }
}

/// Whether a job is seen: those of volumes are by who sees the volume, all others by everybody.
fn sees_job(names: &HashSet<String>, job: &Job) -> bool {
    job.volume.as_ref().is_none_or(|volume| names.contains(volume))
}

/// The nodes that are seen, each under the next that is seen above it.
fn pruned(nodes: Vec<TreeNode>, seen: &HashSet<String>) -> Vec<TreeNode> {
    let mut above = HashMap::new();
    let mut kept = Vec::new();
    for mut node in nodes {
        let parent = node.parent.and_then(|parent| above.get(&parent).copied().flatten());
        let shown = node.kind.volume().is_none_or(|volume| seen.contains(volume));
        above.insert(node.id, if shown { Some(node.id) } else { parent });
        if shown {
            node.parent = parent;
            kept.push(node);
        }
    }
    kept
}

impl Engine for Guarded {
    fn events(&self) -> Arc<Events> {
        self.engine.events()
    }

    fn info(&self) -> Info {
        self.engine.info()
    }

    fn stats(&self) -> Pending<Stats> {
        let (stats, names) = (self.engine.stats(), self.names());
        Box::pin(async move {
            let (mut stats, names) = (stats.await?, names.await?);
            stats.volumes.retain(|of| names.contains(&of.volume));
            Ok(stats)
        })
    }

    fn volumes(&self, mut query: VolumeQuery) -> Pending<VolumeList> {
        let (limit, after) = (query.limit.take(), query.after.take());
        let (all, limits) = (self.engine.volumes(query), Arc::clone(&self.limits));
        Box::pin(async move {
            let mut volumes = all.await?.volumes;
            volumes.retain(|volume| limits.see.has(&volume.project));
            let (volumes, next) = list::cut(volumes, limit, after.as_deref())?;
            Ok(VolumeList { volumes, next })
        })
    }

    fn volume(&self, name: String) -> Pending<Volume> {
        self.look(&name.clone(), |e| e.volume(name))
    }

    fn create_volume(&self, mut request: CreateVolume) -> Pending<Volume> {
        let source = request.source.iter().map(|source| source.volume.clone()).collect();
        self.in_project(request.project.take(), |project| {
            let request = CreateVolume { project, ..request };
            self.of_volumes(Want::Look, source, |e| e.create_volume(request))
        })
    }

    fn create_restore(&self, _: CreateRestore) -> Pending<Volume> {
        refuse(
            "have the daemon read a repository, which it does with its own rights; \"cairn backup restore\" without --instant reads it with yours",
        )
    }

    fn edit_volume(&self, name: String, request: EditVolume) -> Pending<Volume> {
        if let Some(project) = &request.project
            && let Err(error) = self.limits.project(Some(project.clone()))
        {
            return failed(error);
        }
        self.change(&name.clone(), |e| e.edit_volume(name, request))
    }

    fn retype_volume(&self, name: String, request: Retype) -> Pending<Volume> {
        self.change(&name.clone(), |e| e.retype_volume(name, request))
    }

    fn reset_status(&self, _: String, _: ResetStatus) -> Pending<Volume> {
        refuse("set a volume's status")
    }

    fn volume_qos(&self, name: String) -> Pending<VolumeQos> {
        self.look(&name.clone(), |e| e.volume_qos(name))
    }

    fn set_volume_qos(&self, _: String, _: SetVolumeQos) -> Pending<VolumeQos> {
        refuse("change a volume's limits")
    }

    fn attachments(&self, volume: String) -> Pending<AttachmentList> {
        self.look(&volume.clone(), |e| e.attachments(volume))
    }

    fn attach(&self, _: String, _: Attach) -> Pending<Attachment> {
        refuse("attach volumes to this machine's kernel; connect to the NBD socket instead")
    }

    fn detach(&self, volume: String, request: Detach) -> Pending<AttachmentList> {
        self.change(&volume.clone(), |e| e.detach(volume, request))
    }

    fn reset_attachments(&self, volume: String) -> Pending<AttachmentList> {
        self.change(&volume.clone(), |e| e.reset_attachments(volume))
    }

    fn resize_volume(&self, name: String, size: u64) -> Pending<Volume> {
        self.change(&name.clone(), move |e| e.resize_volume(name, size))
    }

    fn delete_volume(&self, name: String, query: DeleteVolumeQuery) -> Pending<()> {
        self.change(&name.clone(), |e| e.delete_volume(name, query))
    }

    fn recycle_bin(&self) -> Pending<RecycleBin> {
        let (bin, limits) = (self.engine.recycle_bin(), Arc::clone(&self.limits));
        Box::pin(async move {
            let mut bin = bin.await?;
            bin.volumes.retain(|recycled| limits.see.has(&recycled.project));
            Ok(bin)
        })
    }

    fn set_recycle_bin(&self, _: SetRecycleBin) -> Pending<RecycleBin> {
        refuse("say for how long deleted volumes are kept")
    }

    fn recover(&self, id: String, request: Recover) -> Pending<Volume> {
        self.recycled(id.clone(), |e| e.recover(id, request))
    }

    fn purge(&self, id: String) -> Pending<()> {
        self.recycled(id.clone(), |e| e.purge(id))
    }

    fn expire(&self) -> Pending<()> {
        refuse("have deleted volumes expire")
    }

    fn tree(&self, volume: String) -> Pending<Tree> {
        let names = self.names();
        let tree = self.look(&volume.clone(), |e| e.tree(volume));
        Box::pin(async move {
            let mut tree = tree.await?;
            tree.nodes = pruned(tree.nodes, &names.await?);
            Ok(tree)
        })
    }

    fn snapshots(&self, mut query: SnapshotQuery) -> Pending<SnapshotList> {
        let (limit, after, of) = (query.limit.take(), query.after.take(), query.volume.clone());
        let limits = Arc::clone(&self.limits);
        let all = match of {
            Some(volume) => self.look(&volume, |e| e.snapshots(query)),
            None => self.engine.snapshots(query),
        };
        Box::pin(async move {
            let mut snapshots = all.await?.snapshots;
            snapshots.retain(|snapshot| limits.see.has(&snapshot.project));
            let (snapshots, next) = list::cut(snapshots, limit, after.as_deref())?;
            Ok(SnapshotList { snapshots, next })
        })
    }

    fn snapshot(&self, volume: String, name: String) -> Pending<Snapshot> {
        self.look(&volume.clone(), |e| e.snapshot(volume, name))
    }

    fn create_snapshot(&self, volume: String, request: CreateSnapshot) -> Pending<Snapshot> {
        self.change(&volume.clone(), |e| e.create_snapshot(volume, request))
    }

    fn create_group(&self, request: CreateGroup) -> Pending<SnapshotList> {
        let volumes = request.members.iter().map(|member| member.volume.clone()).collect();
        self.of_volumes(Want::Change, volumes, |e| e.create_group(request))
    }

    fn edit_snapshot(&self, volume: String, name: String, request: EditSnapshot) -> Pending<Snapshot> {
        self.change(&volume.clone(), |e| e.edit_snapshot(volume, name, request))
    }

    fn reset_snapshot_status(&self, _: String, _: String, _: ResetSnapshotStatus) -> Pending<Snapshot> {
        refuse("set a snapshot's status")
    }

    fn hold_snapshot(&self, volume: String, name: String, request: CreateHold) -> Pending<Snapshot> {
        self.change(&volume.clone(), |e| e.hold_snapshot(volume, name, request))
    }

    fn release_snapshot(&self, volume: String, name: String, hold: String) -> Pending<Snapshot> {
        self.change(&volume.clone(), |e| e.release_snapshot(volume, name, hold))
    }

    fn delete_snapshot(&self, volume: String, name: String) -> Pending<()> {
        self.change(&volume.clone(), |e| e.delete_snapshot(volume, name))
    }

    fn rollback(&self, volume: String, snapshot: String, request: Rollback) -> Pending<RolledBack> {
        self.change(&volume.clone(), |e| e.rollback(volume, snapshot, request))
    }

    fn diff(&self, volume: String, snapshot: String, query: DiffQuery) -> Pending<Diff> {
        let compared = [Some(volume.clone()), query.to_volume.clone()].into_iter().flatten().collect();
        self.of_volumes(Want::Look, compared, |e| e.diff(volume, snapshot, query))
    }

    fn images(&self, query: ImageQuery) -> Pending<ImageList> {
        self.engine.images(query)
    }

    fn image(&self, name: String) -> Pending<Image> {
        self.engine.image(name)
    }

    fn create_image(&self, _: CreateImage) -> Pending<Image> {
        refuse("make images, which all projects see")
    }

    fn edit_image(&self, _: String, _: EditImage) -> Pending<Image> {
        refuse("change images")
    }

    fn delete_image(&self, _: String, _: bool) -> Pending<()> {
        refuse("delete images")
    }

    fn create_import(&self, _: CreateImport) -> Pending<Import> {
        refuse("import images, which all projects see")
    }

    fn cancel_import(&self, _: String) -> Pending<()> {
        refuse("change images")
    }

    fn grow_import(&self, _: String, _: u64) -> Pending<Image> {
        refuse("change images")
    }

    fn complete_import(&self, _: String) -> Pending<Image> {
        refuse("change images")
    }

    fn passing_snapshot(&self, volume: String) -> Pending<PassingSnapshot> {
        self.change(&volume.clone(), |e| e.passing_snapshot(volume))
    }

    fn create_staging(&self, mut request: CreateStaging) -> Pending<Staging> {
        if request.over {
            return self.change(&request.volume.clone(), |e| e.create_staging(request));
        }
        self.in_project(request.project.take(), |project| {
            self.engine.create_staging(CreateStaging { project, ..request })
        })
    }

    fn cancel_staging(&self, id: String) -> Pending<()> {
        self.member(|e| e.cancel_staging(id))
    }

    fn complete_staging(&self, id: String) -> Pending<Staged> {
        self.member(|e| e.complete_staging(id))
    }

    fn types(&self) -> Pending<TypeList> {
        self.engine.types()
    }

    fn volume_type(&self, name: String) -> Pending<VolumeType> {
        self.engine.volume_type(name)
    }

    fn create_type(&self, _: CreateType) -> Pending<VolumeType> {
        refuse("make types")
    }

    fn edit_type(&self, _: String, _: EditType) -> Pending<VolumeType> {
        refuse("change types")
    }

    fn delete_type(&self, _: String) -> Pending<()> {
        refuse("delete types")
    }

    fn qos_policies(&self) -> Pending<QosPolicyList> {
        self.engine.qos_policies()
    }

    fn qos_policy(&self, name: String) -> Pending<QosPolicy> {
        self.engine.qos_policy(name)
    }

    fn create_qos_policy(&self, _: CreateQosPolicy) -> Pending<QosPolicy> {
        refuse("make QoS rules")
    }

    fn edit_qos_policy(&self, _: String, _: EditQosPolicy) -> Pending<QosPolicy> {
        refuse("change QoS rules")
    }

    fn delete_qos_policy(&self, _: String) -> Pending<()> {
        refuse("delete QoS rules")
    }

    fn pools(&self) -> Pending<PoolList> {
        self.engine.pools()
    }

    fn pool(&self, name: Option<String>) -> Pending<PoolStatus> {
        self.engine.pool(name)
    }

    fn create_pool(&self, _: CreatePool) -> Pending<PoolEntry> {
        refuse("add pools")
    }

    fn grow_pool(&self, _: String, _: GrowPool) -> Pending<PoolStatus> {
        refuse("change pools")
    }

    fn remove_pool(&self, _: String) -> Pending<()> {
        refuse("remove pools")
    }

    fn start_check(&self, _: Option<String>, _: bool) -> Pending<Job> {
        refuse("check pools")
    }

    fn jobs(&self, mut query: JobQuery) -> Pending<JobList> {
        let limit = query.limit.take();
        let (all, names) = (self.engine.jobs(query), self.names());
        Box::pin(async move {
            list::check_limit(limit)?;
            let (mut list, names) = (all.await?, names.await?);
            list.jobs.retain(|job| sees_job(&names, job));
            list.jobs.truncate(most(limit));
            Ok(list)
        })
    }

    fn job(&self, id: String) -> Pending<Job> {
        let (job, names) = (self.engine.job(id.clone()), self.names());
        Box::pin(async move {
            let (job, names) = (job.await?, names.await?);
            if sees_job(&names, &job) { Ok(job) } else { Err(jobs::missing(&id)) }
        })
    }

    fn cancel_job(&self, id: String) -> Pending<Job> {
        let (engine, limits, job) =
            (Arc::clone(&self.engine), Arc::clone(&self.limits), self.job(id.clone()));
        Box::pin(async move {
            let Job { volume, image: None, .. } = job.await? else {
                return Err(administrators("cancel what changes images"));
            };
            let Some(name) = volume else { return Err(administrators("cancel what is done to pools")) };
            let all = engine.volumes(VolumeQuery::default()).await?.volumes;
            let of = all.into_iter().find(|volume| volume.name == name).ok_or_else(|| jobs::missing(&id))?;
            limits.allow(Want::Change, &of.project, &name)?;
            engine.cancel_job(id).await
        })
    }

    fn scrub(&self, name: Option<String>) -> Pending<Scrub> {
        self.engine.scrub(name)
    }

    fn start_scrub(&self, _: Option<String>, _: StartScrub) -> Pending<Scrub> {
        refuse("scrub pools")
    }

    fn stop_scrub(&self, _: Option<String>) -> Pending<Scrub> {
        refuse("stop scrubs")
    }
}
