//! Making a backup: find what may have changed, read, hash, compress, encrypt, pack, upload, all at once.
//!
//! ```text
//! plan (one task, `pieces.rs`): extents ── base's leaves ── pieces of work
//!     │ a bounded queue, in order
//! pieces (tasks): read ── hash ── known? ── compress, encrypt        on as many threads as allowed
//!     │ in order
//! collect (the caller's task): packs ── map
//!     │
//! uploads (tasks): one pack each
//! ```
//!
//! Memory is bounded by the queue (a MiB a piece), the packs under way (16 MiB each) and the index.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::commit::{self, Outcome};
use crate::core::{Core, Fetcher};
use crate::cpus::Cpus;
use crate::error::{Error, ErrorKind, Result};
use crate::ids::BackupId;
use crate::index::View;
use crate::keys::BlobKind;
use crate::limit::{Cancel, Limiter, Meter, OnProgress, Phase};
use crate::manifest::{Backup, BackupKind, Geometry, Labels, VolumeRef};
use crate::map::{Map, MapBuilder};
use crate::node::{Chunk, Reference};
use crate::pieces::{Blob, Content, Found, Piece, Plan, Worker};
use crate::session::{Session, Work};
use crate::source::Source;
use crate::task::Task;
use crate::upload::{Known, Uploader};

/// What to back up, and how.
pub struct BackupRequest {
    /// The volume.
    pub volume: VolumeRef,
    /// Name, description, tags.
    pub labels: Labels,
    /// The host that makes the backup.
    pub host: String,
    /// When the snapshot was taken, in milliseconds since 1970.
    pub created: i64,
    /// Bytes of the volume's block, for its guest.
    pub block_size: u32,
    /// Facts about the volume to be kept with the backup.
    pub attributes: BTreeMap<String, String>,
    /// The backup that [`Extents::Changed`](crate::Extents::Changed) of the source relates to; without one, all is read.
    pub base: Option<BackupId>,
    /// Threads that hash, compress and encrypt; zero is one.
    pub threads: usize,
    /// How fast packs may go up.
    pub limiter: Option<Limiter>,
    /// How to stop it.
    pub cancel: Cancel,
    /// Who is told how far it is.
    pub progress: Option<OnProgress>,
}

impl BackupRequest {
    /// A full backup of a volume, as fast as two threads make it.
    pub fn new(volume: VolumeRef) -> BackupRequest {
        BackupRequest {
            volume,
            labels: Labels::default(),
            host: String::new(),
            created: crate::repository::now(),
            block_size: 512,
            attributes: BTreeMap::new(),
            base: None,
            threads: 2,
            limiter: None,
            cancel: Cancel::new(),
            progress: None,
        }
    }
}

/// Pieces of work under way, for each thread and besides.
const PIECES_PER_THREAD: usize = 4;
const PIECES: usize = 16;
/// How often a volume is gone through when collections delete what it refers to. With any delay between mark and
/// deletion, once is enough.
const PASSES: usize = 4;

/// Makes a backup.
pub(crate) async fn run(core: &Arc<Core>, source: Arc<dyn Source>, request: BackupRequest) -> Result<Backup> {
    core.writable()?;
    request.labels.check()?;
    let geometry = Geometry::new(source.size(), core.config.chunk_size)?;
    // Before anything is looked at: a collection spares what a session that began before its mark may rely on.
    let session = Session::begin(core, Work::Backup).await?;
    let made = passes(core, source, &request, geometry).await;
    session.end().await;
    made
}

async fn passes(
    core: &Arc<Core>,
    source: Arc<dyn Source>,
    request: &BackupRequest,
    geometry: Geometry,
) -> Result<Backup> {
    let mut meter = Meter::new(request.progress.clone());
    let mut base = match request.base {
        // Deleted since the caller chose it: then all is read.
        Some(id) => crate::repository::find_backup(core, id).await?,
        None => None,
    };
    for _ in 0..PASSES {
        meter.phase(Phase::Preparing);
        let index = request.cancel.or(View::load(core)).await?.index;
        let mut pass = Pass::new(core, &source, request, geometry, base.clone(), index);
        let (backup, used) = match pass.run(&mut meter).await {
            Ok(root) => {
                let uploader = &pass.uploader;
                let backup = Backup {
                    id: BackupId::random()?,
                    volume: request.volume.clone(),
                    kind: if base.is_some() { BackupKind::Incremental } else { BackupKind::Full },
                    parent: base.as_ref().map(|base| base.id),
                    labels: request.labels.clone(),
                    created: request.created,
                    host: request.host.clone(),
                    size: geometry.size,
                    block_size: request.block_size,
                    attributes: request.attributes.clone(),
                    data_bytes: root
                        .map_or(0, |root| root.chunks * u64::from(geometry.chunk))
                        .min(geometry.size),
                    read_bytes: meter.now.bytes_copied,
                    added_bytes: uploader.added_bytes(),
                    root,
                };
                (backup, uploader.used().clone())
            }
            Err(error) => {
                if error.kind() != ErrorKind::Unavailable {
                    pass.uploader.abandon().await;
                }
                let Some(id) =
                    base.as_ref().map(|base| base.id).filter(|_| error.kind() == ErrorKind::Corrupt)
                else {
                    return Err(error);
                };
                if crate::repository::find_backup(core, id).await?.is_some() {
                    return Err(error.hurting(id));
                }
                // Not damaged: deleted and collected while this read it.
                base = None;
                continue;
            }
        };
        meter.phase(Phase::Finishing);
        if commit::commit(core, &backup, &used, backup.parent).await? == Outcome::Committed {
            return Ok(backup);
        }
        tracing::debug!("a collection took what the backup refers to; going through the volume again");
        if let Some(id) = request.base
            && crate::repository::find_backup(core, id).await?.is_none()
        {
            base = None;
        }
    }
    Err(Error::new(ErrorKind::Conflict, "collections kept deleting what the backup refers to"))
}

/// Going through the volume once.
struct Pass {
    worker: Worker,
    uploader: Uploader,
    base: Option<Map>,
    base_size: Option<u64>,
    threads: usize,
    cancel: Cancel,
}

impl Pass {
    fn new(
        core: &Arc<Core>,
        source: &Arc<dyn Source>,
        request: &BackupRequest,
        geometry: Geometry,
        base: Option<Backup>,
        index: Arc<crate::index::Index>,
    ) -> Pass {
        let known = Known::new(index.clone());
        let threads = request.threads.max(1);
        let worker = Worker {
            core: core.clone(),
            source: source.clone(),
            known: known.clone(),
            geometry,
            cpus: Cpus::new(threads),
        };
        let uploader = Uploader::new(core.clone(), known, request.limiter.clone(), request.cancel.clone());
        let fetcher = Arc::new(Fetcher::new(core.clone(), Some(index), None));
        let base_size = base.as_ref().map(|base| base.size);
        let base = base
            .map(|base| Map::new(fetcher, Geometry { size: base.size, chunk: geometry.chunk }, base.root));
        Pass { worker, uploader, base, base_size, threads, cancel: request.cancel.clone() }
    }

    async fn run(&mut self, meter: &mut Meter) -> Result<Option<crate::node::Child>> {
        let geometry = self.worker.geometry;
        meter.now.bytes_total = geometry.size;
        (meter.now.bytes_done, meter.now.bytes_copied) = (0, 0);
        meter.phase(Phase::Copying);
        let (queue, mut pieces) = mpsc::channel(PIECES + PIECES_PER_THREAD * self.threads);
        let plan = Plan {
            worker: self.worker.clone(),
            base: self.base.clone(),
            reread: self.base_size.filter(|size| *size > geometry.size && geometry.size > 0),
            queue,
        };
        let plan = Task::spawn(plan.run());
        let mut builder = MapBuilder::new(geometry, self.base.clone());
        let cancel = self.cancel.clone();
        loop {
            let next = async {
                match pieces.recv().await {
                    Some(piece) => Task::done(piece).await.map(Some),
                    None => Ok(None),
                }
            };
            let next: Option<Piece> = self.uploader.during(cancel.or(next)).await?;
            let Some(piece) = next else { break };
            let sent = self.uploader.sent_bytes();
            let found = piece.found;
            meter.during(&sent, self.place(&mut builder, found)).await?;
            meter.now.bytes_copied += piece.read;
            meter.now.bytes_done = piece.end;
            meter.tick();
        }
        plan.done().await?;
        let sent = self.uploader.sent_bytes();
        let uploader = &mut self.uploader;
        let finish = async {
            let root = builder.finish(uploader).await?;
            uploader.finish().await?;
            Ok::<_, Error>(root)
        };
        let root = meter.during(&sent, finish).await?;
        meter.now.bytes_done = geometry.size;
        Ok(root)
    }

    /// Puts what a piece found where it belongs; waits for packs to go up when there are enough of them.
    async fn place(&mut self, builder: &mut MapBuilder, found: Vec<Found>) -> Result<()> {
        for Found { chunk, content } in found {
            let entry = match content {
                Content::Hole => Chunk::Hole,
                Content::Whole(blob) => Chunk::Whole(self.add(blob).await?),
                Content::Patch { base, blob, blocks } => {
                    Chunk::Patched { base, patch: self.add(blob).await?, blocks }
                }
            };
            builder.set(&mut self.uploader, chunk, entry).await?;
        }
        Ok(())
    }

    async fn add(&mut self, blob: Blob) -> Result<Reference> {
        match blob {
            Blob::Known(id, place) => Ok(self.uploader.found(id, place)),
            Blob::New(id, stored) => self.uploader.add(BlobKind::Chunk, id, &stored).await,
        }
    }
}
