//! Verifying: can every backup be restored? What is damaged is named, with the backups that it hurts.
//!
//! Without reading data: every small object is opened, every node of every map is read, every chunk is looked up, and
//! every pack must be there with its size. With it, every byte of every pack is read and checked too.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};

use crate::blob;
use crate::core::{Core, Fetcher};
use crate::cpus::Cpus;
use crate::envelope::{self, Kind};
use crate::error::{Error, ErrorKind, Result};
use crate::gc;
use crate::ids::{BackupId, BlobId, PackId};
use crate::index::{PackInfo, View};
use crate::keys::BlobKind;
use crate::limit::{Cancel, Limiter, Meter, OnProgress, Phase};
use crate::manifest::{Geometry, Labels};
use crate::map::Walk;
use crate::node::{Child, Chunk, Node, Reference};
use crate::pack;
use crate::repository::is_there;
use crate::roots::Roots;
use crate::session;

/// How to verify.
#[derive(Default)]
pub struct VerifyOptions {
    /// Read and check every byte.
    pub read_data: bool,
    /// Condemn damaged packs: the next full backup then stores again what its volume still has, which heals every
    /// backup that shares it, and collections save the rest.
    pub repair: bool,
    /// Threads that decrypt, decompress and check; zero is one.
    pub threads: usize,
    /// How fast data may come.
    pub limiter: Option<Limiter>,
    /// How to stop it.
    pub cancel: Cancel,
    /// Who is told how far it is; bytes are those of packs.
    pub progress: Option<OnProgress>,
}

/// Something damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// The object, or the blob that no object holds.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
    /// Backups that cannot be restored whole because of it; none where another copy stands in or nothing needs it.
    pub backups: Vec<BackupId>,
}

/// What verifying found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct VerifyReport {
    /// Backups looked at.
    pub backups: u64,
    /// Packs that are there.
    pub packs: u64,
    /// Map nodes and chunks that backups refer to, each once.
    pub blobs: u64,
    /// Bytes of packs read.
    pub bytes_read: u64,
    /// What is damaged.
    pub problems: Vec<Problem>,
    /// Packs condemned as a repair.
    pub condemned: u64,
}

impl VerifyReport {
    /// Whether nothing is damaged.
    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Packs read at once.
const PARALLEL: usize = 3;

/// Verifies.
pub(crate) async fn run(core: &Arc<Core>, options: &VerifyOptions) -> Result<VerifyReport> {
    if options.repair {
        core.writable()?;
    }
    let mut meter = Meter::new(options.progress.clone());
    meter.phase(Phase::Preparing);
    let mut verify = Verify {
        core,
        options,
        report: VerifyReport::default(),
        lost: HashMap::new(),
        broken: HashSet::new(),
    };
    verify.small_objects().await?;
    // Manifests before packs: what a manifest refers to was there when it was written.
    let roots = options.cancel.or(Roots::load(core)).await?;
    for (name, _, error) in &roots.damaged {
        let is_backup = name.starts_with(Kind::Backup.folder());
        let hurt = if is_backup { error.backups().to_vec() } else { Vec::new() };
        verify.problem(name, error, hurt);
    }
    verify.report.backups = roots.backups.len() as u64;
    let view = options.cancel.or(View::load(core)).await?;
    verify.report.packs = view.listed.len() as u64;
    let mut condemn: BTreeSet<PackId> = BTreeSet::new();
    for (name, error) in &view.damage {
        verify.problem(name, error, Vec::new());
        condemn.extend(pack::id_of(name));
        verify.broken.extend(pack::id_of(name));
    }
    if options.read_data {
        meter.now.bytes_total = view.listed.values().sum();
        meter.phase(Phase::Copying);
        condemn.extend(verify.packs(&view, &mut meter).await?);
    }
    meter.phase(Phase::Finishing);
    let told_before = verify.report.problems.len();
    verify.references(&view, &roots).await?;
    verify.find_hurt(&roots).await?;
    // What only maps lack is nothing wrong when no backup that is still there has such a map.
    let mut lacking = verify.report.problems.split_off(told_before);
    lacking.retain(|problem| !problem.backups.is_empty());
    verify.report.problems.append(&mut lacking);
    if options.repair {
        verify.condemn(&condemn).await?;
    }
    Ok(verify.report)
}

struct Verify<'a> {
    core: &'a Arc<Core>,
    options: &'a VerifyOptions,
    report: VerifyReport,
    /// Blobs of which no copy is good, and the problem that says why.
    lost: HashMap<BlobId, usize>,
    /// Packs whose header or footer is damaged, or their size: what an index says is in them has to be tried.
    broken: HashSet<PackId>,
}

impl Verify<'_> {
    fn problem(&mut self, object: &str, what: &Error, backups: Vec<BackupId>) -> usize {
        let text = what.to_string();
        let what = text.strip_prefix(&format!("{object}: ")).unwrap_or(&text).to_owned();
        self.report.problems.push(Problem { object: object.to_owned(), what, backups });
        self.report.problems.len() - 1
    }

    /// Marks, sessions and labels: nothing depends on what they say, but they too say what was written.
    async fn small_objects(&mut self) -> Result<()> {
        for session in session::list(self.core).await? {
            if let Some(error) = session.damage {
                self.problem(&session.name, &error, Vec::new());
            }
        }
        for kind in [Kind::Condemned, Kind::Labels] {
            for object in self.core.store.list(kind.folder()).await? {
                self.options.cancel.check()?;
                let Some(contents) = self.core.store.find(&object.name).await? else { continue };
                let opened = match (kind, object.name.strip_prefix(kind.folder()).map(str::parse)) {
                    (Kind::Labels, Some(Ok(id))) => Labels::open(&self.core.keys, id, &contents).map(drop),
                    _ => envelope::open(&self.core.keys, kind, &object.name, &contents).map(drop),
                };
                match opened {
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        self.problem(&object.name, &error, Vec::new());
                    }
                    opened => opened?,
                }
            }
        }
        Ok(())
    }

    /// Reads every pack; those that are damaged.
    async fn packs(&mut self, view: &View, meter: &mut Meter) -> Result<Vec<PackId>> {
        let cpus = Cpus::new(self.options.threads);
        let mut reads = stream::iter(view.index.packs().to_vec().into_iter().map(|info| {
            let (core, cpus, limiter) = (self.core.clone(), cpus.clone(), self.options.limiter.clone());
            async move { (info, check_pack(core, cpus, limiter, info).await) }
        }))
        .buffer_unordered(PARALLEL);
        let cancel = self.options.cancel.clone();
        // Of a blob with several copies, only all of them being bad is a loss.
        let mut bad: HashMap<BlobId, Vec<(PackId, usize)>> = HashMap::new();
        let mut damaged = Vec::new();
        while let Some((info, checked)) = cancel.or(async { Ok(reads.next().await) }).await? {
            let name = pack::name(info.id);
            match checked? {
                Checked::Gone => {}
                Checked::Broken(error) => {
                    damaged.push(info.id);
                    self.broken.insert(info.id);
                    if view.damage.iter().all(|(known, _)| *known != name) {
                        self.problem(&name, &error, Vec::new());
                    }
                }
                Checked::Blobs(blobs) if blobs.is_empty() => {}
                Checked::Blobs(blobs) => {
                    damaged.push(info.id);
                    let what = Error::new(
                        ErrorKind::Corrupt,
                        format!(
                            "{} of its blobs do not match their checksums, the first at {}",
                            blobs.len(),
                            blobs[0].1
                        ),
                    );
                    let problem = self.problem(&name, &what, Vec::new());
                    for (id, _) in blobs {
                        bad.entry(id).or_default().push((info.id, problem));
                    }
                }
            }
            self.report.bytes_read += info.size;
            meter.now.bytes_done = self.report.bytes_read;
            meter.now.bytes_transferred = self.report.bytes_read;
            meter.tick();
        }
        drop(reads);
        for (id, copies) in bad {
            let good = view.index.places(&id).any(|place| copies.iter().all(|(pack, _)| *pack != place.pack));
            if !good && let Some((_, problem)) = copies.first() {
                self.lost.insert(id, *problem);
            }
        }
        Ok(damaged)
    }

    /// Follows every map: nodes must be readable, chunks in a pack that is there and long enough.
    async fn references(&mut self, view: &View, roots: &Roots) -> Result<()> {
        let fetcher =
            Arc::new(Fetcher::new(self.core.clone(), Some(view.index.clone()), self.options.limiter.clone()));
        let mut walk = Walk::new(fetcher.clone());
        let mut suspects: Vec<(BlobKind, Reference)> = Vec::new();
        let broken = &self.broken;
        let mut missing: BTreeMap<BlobId, String> = BTreeMap::new();
        let mut count = 0;
        for backup in &roots.backups {
            let Some(root) = backup.root else { continue };
            let top = Geometry::new(backup.size, self.core.config.chunk_size)?.top();
            let mut each = |kind, reference: Reference| {
                count += 1;
                let held = view.index.places(&reference.id).any(|place| {
                    let end = u64::from(place.offset) + u64::from(place.len);
                    view.listed.get(&place.pack).is_some_and(|size| end <= *size)
                });
                if !held {
                    missing.entry(reference.id).or_insert_with(|| "no pack holds it".to_owned());
                } else if view.index.places(&reference.id).all(|place| broken.contains(&place.pack)) {
                    suspects.push((kind, reference));
                }
            };
            let mut failed = Vec::new();
            let mut unreadable = |error: Error| match error.kind() {
                ErrorKind::Corrupt => {
                    failed.push(error);
                    Ok(())
                }
                _ => Err(error),
            };
            self.options.cancel.or(walk.root(root, top, &mut each, &mut unreadable)).await?;
            for error in failed {
                let text = error.to_string();
                let id = text.strip_prefix("map node ").and_then(|text| text.split_once(": "));
                if let Some((Ok(id), why)) = id.map(|(id, why)| (id.parse(), why)) {
                    missing.insert(id, why.to_owned());
                }
            }
        }
        self.report.blobs = count;
        for (kind, reference) in suspects {
            match self.options.cancel.or(fetcher.fetch(kind, &reference)).await {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    missing.insert(reference.id, "a blob in it cannot be read".to_owned());
                }
                fetched => drop(fetched?),
            }
        }
        for (id, why) in missing {
            if self.lost.contains_key(&id) {
                continue;
            }
            let object = view
                .index
                .places(&id)
                .next()
                .map_or_else(|| format!("blob {id}"), |place| pack::name(place.pack));
            let known = self.report.problems.iter().position(|problem| problem.object == object);
            let problem = match known {
                Some(problem) => problem,
                None => self.problem(&object, &Error::new(ErrorKind::Corrupt, why), Vec::new()),
            };
            self.lost.insert(id, problem);
        }
        Ok(())
    }

    /// Finds which backups need what is lost.
    async fn find_hurt(&mut self, roots: &Roots) -> Result<()> {
        if self.lost.is_empty() {
            return Ok(());
        }
        let fetcher = Arc::new(Fetcher::new(self.core.clone(), None, None));
        let mut seen = HashMap::new();
        for backup in &roots.backups {
            let Some(root) = backup.root else { continue };
            let top = Geometry::new(backup.size, self.core.config.chunk_size)?.top();
            let hurt = self.options.cancel.or(hurt_below(&fetcher, &self.lost, &mut seen, root, top)).await;
            if hurt.as_ref().is_ok_and(|hurt| hurt.is_empty()) {
                continue;
            }
            if !is_there(self.core, backup.id).await? {
                // Deleted while this ran, and collected: no wonder.
                continue;
            }
            for problem in hurt?.iter() {
                self.report.problems[*problem].backups.push(backup.id);
            }
        }
        Ok(())
    }

    async fn condemn(&mut self, packs: &BTreeSet<PackId>) -> Result<()> {
        for id in packs {
            gc::condemn(self.core, *id).await?;
            self.report.condemned += 1;
        }
        Ok(())
    }
}

type Hurt = Arc<BTreeSet<usize>>;

/// The problems that anything below a node has.
fn hurt_below<'a>(
    fetcher: &'a Arc<Fetcher>,
    lost: &'a HashMap<BlobId, usize>,
    seen: &'a mut HashMap<BlobId, Hurt>,
    child: Child,
    level: u8,
) -> BoxFuture<'a, Result<Hurt>> {
    async move {
        let id = child.node.id;
        if let Some(hurt) = seen.get(&id) {
            return Ok(hurt.clone());
        }
        let mut hurt = BTreeSet::new();
        match lost.get(&id) {
            Some(problem) => {
                hurt.insert(*problem);
            }
            None => match fetcher.node(level, &child.node).await?.as_ref() {
                Node::Leaf(leaf) => {
                    let references = leaf.0.iter().flat_map(Chunk::references);
                    hurt.extend(references.filter_map(|reference| lost.get(&reference.id)));
                }
                Node::Inner(inner) => {
                    for child in inner.children.iter().flatten() {
                        hurt.extend(
                            hurt_below(fetcher, lost, seen, *child, level.saturating_sub(1)).await?.iter(),
                        );
                    }
                }
            },
        }
        let hurt = Arc::new(hurt);
        seen.insert(id, hurt.clone());
        Ok(hurt)
    }
    .boxed()
}

/// What reading a whole pack came to.
enum Checked {
    /// A collection deleted it meanwhile.
    Gone,
    /// Header or footer is damaged.
    Broken(Error),
    /// Blobs that do not match their ids, with their offsets.
    Blobs(Vec<(BlobId, u32)>),
}

async fn check_pack(
    core: Arc<Core>,
    cpus: Arc<Cpus>,
    limiter: Option<Limiter>,
    info: PackInfo,
) -> Result<Checked> {
    if let Some(limiter) = limiter {
        limiter.admit(info.size as usize).await;
    }
    let Some(object) = core.store.find(&pack::name(info.id)).await? else { return Ok(Checked::Gone) };
    cpus.compute(move |pace| match gc::parse(&core, &info, &object) {
        Ok(record) => {
            let bad = record.entries.iter().filter(|entry| {
                let stored = &object[entry.offset as usize..(entry.offset + entry.len) as usize];
                let is_bad = blob::decode(&core.keys, record.kind, &entry.id, stored).is_none();
                pace.pause();
                is_bad
            });
            Checked::Blobs(bad.map(|entry| (entry.id, entry.offset)).collect())
        }
        Err(error) => Checked::Broken(error),
    })
    .await
}
