//! What the NBD side and the control side both work on: the pools, who uses their volumes, and how much they may.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use cairn_api::attachment::Consumer;
use cairn_api::event::EventKind;
use cairn_api::pool::MAIN_POOL;
use cairn_api::qos::QosRule;
use cairn_api::volume::SetStatus;
use cairn_cow::{Attributes, Disk, Error, ErrorKind, Holder, Pool, Resolved, Result, VersionId};
use parking_lot::Mutex;

use crate::activity::Activities;
use crate::checks::Checks;
use crate::control::{Sessions, Target};
use crate::courtesy::Courtesy;
use crate::events::{About, Events};
use crate::figures::Figures;
use crate::images;
use crate::jobs::{self, Jobs};
use crate::pools::Pools;
use crate::qos::{Throttle, ThrottleStats};
use crate::remains::{self, is_remains};
use crate::restore::{self, Restores};
use crate::scrubs::Scrubs;
use crate::settings::{self, Settings, is_set, kept_status};
use crate::staging::{is_replaced, replaced};

/// One a daemon, shared by `Arc`.
pub struct Volumes<D: Disk> {
    /// The pools.
    pub pools: Pools<D>,
    /// Who uses what.
    pub sessions: Arc<Sessions>,
    /// Those that are being restored.
    pub(crate) restores: Restores<D>,
    /// What happened to them.
    pub events: Arc<Events>,
    /// What is being done to them.
    pub(crate) activities: Arc<Activities>,
    /// Of pools, in the background.
    pub(crate) scrubs: Scrubs,
    /// Of pools, too.
    pub(crate) checks: Checks,
    /// What has become of all that takes its time.
    pub(crate) jobs: Jobs,
    /// What is done by those who use them.
    pub figures: Arc<Figures>,
    /// Between those who use volumes and those who copy them.
    pub(crate) courtesy: Arc<Courtesy>,
    /// Of the volumes that were connected to since the daemon started.
    throttles: Mutex<HashMap<Key, Arc<Throttle>>>,
    /// What was said to be wrong with what is kept.
    complaints: Mutex<HashSet<String>>,
}

/// A volume, whatever it and its pool are called: the pool's id and that of its head.
pub type Key = ([u8; 16], VersionId);

impl<D: Disk> Volumes<D> {
    /// The volumes of one pool, found at `path`; others may be added.
    pub fn new(main: Arc<Pool<D>>, path: String) -> Arc<Volumes<D>> {
        Volumes::telling(main, path, Arc::default())
    }

    /// As [`new`](Self::new), with what happens told to `events`.
    pub(crate) fn telling(main: Arc<Pool<D>>, path: String, events: Arc<Events>) -> Arc<Volumes<D>> {
        let pools = Pools::new(main, path);
        let courtesy = Arc::<Courtesy>::default();
        let volumes = Arc::new(Volumes {
            pools,
            events,
            sessions: Sessions::new(),
            restores: Restores::new(Arc::clone(&courtesy)),
            courtesy,
            activities: Arc::default(),
            scrubs: Scrubs::default(),
            checks: Checks::default(),
            jobs: Jobs::default(),
            figures: Arc::default(),
            throttles: Mutex::default(),
            complaints: Mutex::default(),
        });
        let all = Arc::downgrade(&volumes);
        volumes.sessions.tell_of(move |target, consumer, begins| {
            if let Some(volumes) = all.upgrade() {
                volumes.tell_of_use(target, consumer, begins);
            }
        });
        let all = Arc::downgrade(&volumes);
        volumes.events.look_up_projects(move |volume| all.upgrade()?.project(volume));
        volumes
    }

    /// Somebody has begun to use what users see as a volume or a snapshot, or does so no more.
    fn tell_of_use(&self, target: &Target, consumer: &Consumer, begins: bool) {
        if self.pools.of_volume(target.volume()).is_err() {
            return;
        }
        let export = target.export();
        let (kind, message) = if begins {
            (EventKind::VolumeAttached, format!("{consumer} uses {export}"))
        } else {
            (EventKind::VolumeDetached, format!("{consumer} does not use {export} any more"))
        };
        self.events.tell(kind, About::export(&export), message);
    }

    /// The project of a volume, if it is there.
    pub(crate) fn project(&self, volume: &str) -> Option<String> {
        let (_, pool) = self.pools.of_volume(volume).ok()?;
        let kept = pool.attributes(Holder::Volume(volume)).ok()?;
        Some(settings::project(&kept).to_owned())
    }

    /// What the first pool keeps for all.
    pub(crate) fn settings(&self) -> Settings {
        let kept = self.pools.main().attributes(Holder::Pool);
        // The pool itself is always there.
        Settings::read(&kept.unwrap_or_default())
    }

    /// The throttle of the volume `name` with this head.
    pub(crate) fn throttle(&self, pool: &Pool<D>, name: &str, head: VersionId) -> Arc<Throttle> {
        let mut throttles = self.throttles.lock();
        let throttle = throttles.entry((pool.id(), head));
        // Worked out under the lock: whoever changes limits keeps them first and then sets them here, so the two
        // cannot miss each other.
        Arc::clone(throttle.or_insert_with(|| Throttle::new(&self.limits(pool, name))))
    }

    fn limits(&self, pool: &Pool<D>, name: &str) -> QosRule {
        let kept = pool.attributes(Holder::Volume(name));
        kept.map_or_else(|_| QosRule::default(), |attributes| self.settings().limits(&attributes).1)
    }

    /// Deletes what clients of the daemon that had a pool before have not finished, and takes up its restores. What could
    /// not be deleted is left for the next time.
    pub(crate) async fn take_up(&self, name: &str, pool: &Arc<Pool<D>>) -> Vec<cairn_cow::Error> {
        let main = self.pools.main();
        if main.id() == pool.id() {
            self.jobs.load(main, &self.events).await;
        }
        for jobs::Found { job, .. } in jobs::unfinished(name, pool) {
            self.jobs.interrupted(main, &self.events, job).await;
        }
        let swept = [
            remains::go_on(pool).await,
            images::sweep(pool).await,
            restore::sweep(pool).await,
            remains::sweep(pool).await,
        ];
        self.restores.load(pool).await;
        swept.into_iter().filter_map(Result::err).collect()
    }

    /// The volume of this head is deleted.
    pub(crate) fn forget_use(&self, pool: &Pool<D>, head: VersionId) {
        self.throttles.lock().remove(&(pool.id(), head));
        self.figures.forget((pool.id(), head));
    }

    /// What has come to be wrong with what is kept since this was last asked: who said it once need not say it again.
    fn complaints(&self, settings: &Settings) -> Vec<String> {
        let mut wrong: Vec<String> =
            settings.unreadable.iter().map(|what| format!("pool '{MAIN_POOL}': {what}")).collect();
        for (_, pool) in self.pools.open() {
            for volume in pool.volumes() {
                let problems = settings.problems(&volume.attributes);
                wrong.extend(problems.iter().map(|what| format!("volume '{}': {what}", volume.name)));
            }
        }
        let mut said = self.complaints.lock();
        let new = wrong.iter().filter(|what| !said.contains(*what)).cloned().collect();
        *said = wrong.into_iter().collect();
        new
    }

    /// Has every volume's limits in force that were kept for it, and says once what cannot be read.
    pub(crate) fn apply_limits(&self) {
        let settings = self.settings();
        for what in self.complaints(&settings) {
            tracing::warn!("{what}");
        }
        let mut throttles = self.throttles.lock();
        let mut known = HashMap::new();
        for (_, pool) in self.pools.open() {
            for volume in pool.volumes() {
                let key = (pool.id(), volume.id);
                let Some(throttle) = throttles.remove(&key) else { continue };
                throttle.set_rule(&settings.limits(&volume.attributes).1);
                known.insert(key, throttle);
            }
        }
        // What is left was deleted.
        *throttles = known;
    }

    /// What a volume's limits have done since the daemon started.
    pub(crate) fn throttle_stats(&self, pool: &Pool<D>, head: VersionId) -> ThrottleStats {
        let throttles = self.throttles.lock();
        throttles.get(&(pool.id(), head)).map(|throttle| throttle.stats()).unwrap_or_default()
    }
}

/// What the export `name` stands for, as clients may have it now, and what its volume keeps: not writable when it is
/// write-protected.
///
/// # Errors
/// `NotFound`, and `Busy` while an administrator keeps everybody away from it.
pub(crate) fn resolve_for_use<D: Disk>(pool: &Pool<D>, name: &str) -> Result<(Resolved, Attributes)> {
    let mut found = pool.resolve(name)?;
    let kept = pool.attributes_of(found.head)?;
    if let Some(status) = kept_status(&kept).filter(|kept| kept.status == SetStatus::Maintenance) {
        let volume = name.split('@').next().unwrap_or(name);
        let why = status.reason.map_or_else(String::new, |reason| format!(": {reason}"));
        return Err(Error::new(ErrorKind::Busy, format!("the volume '{volume}' is in maintenance{why}")));
    }
    if found.id == found.head && is_remains(&kept) {
        return Err(Error::new(ErrorKind::Busy, remains::why(name)));
    }
    if found.id == found.head && is_replaced(pool, name) {
        return Err(Error::new(ErrorKind::Busy, replaced(name)));
    }
    found.writable &= !is_set(&kept, settings::VOLUME_PROTECTED);
    Ok((found, kept))
}

/// Whether what was `found` as the export `name` may have several consumers now; none when that name means something else
/// by now, or nothing, or may not be used as it was found.
pub(crate) fn is_shared_now<D: Disk>(pool: &Pool<D>, name: &str, found: &Resolved) -> Option<bool> {
    let (now, kept) = resolve_for_use(pool, name).ok()?;
    let same = (now.id, now.head) == (found.id, found.head) && now.writable >= found.writable;
    same.then(|| is_set(&kept, settings::VOLUME_SHARED))
}
