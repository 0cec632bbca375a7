//! Who uses a volume, and ending that.

use std::sync::Arc;
use std::time::Duration;

use cairn_api::attachment::{Attach, Attachment, AttachmentList, Consumer, Detach};
use cairn_api::error::{ApiError, ErrorCode};
use cairn_cow::{Disk, Pool, VersionId};

use super::context::{Context, blocking};
use super::sessions::{Closed, Held, InUse, Sessions, Target};
use super::{convert, volumes};
use crate::devices::{self, Devices};
use crate::kernel::VolumeKey;
use crate::serve::unnamed_device;
use crate::volumes::{Volumes, is_shared_now, resolve_for_use};

/// How often and how long a delete or rollback waits for connections to go: half a second in all.
const HOLD_ATTEMPTS: u32 = 25;
const HOLD_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether connections that were asked to end are gone.
const END_PAUSE: Duration = Duration::from_millis(5);
/// How long connections get to end. One that is asked to has ten seconds to take its answers; requests in flight end
/// when the disk has done them.
const END_ATTEMPTS: u32 = 6000;

/// Takes `target` for one operation, giving connections that are just being closed, and whoever closes them, a moment to be
/// gone: a client that has disconnected does not know when the daemon has noticed.
pub(super) async fn hold(sessions: &Arc<Sessions>, target: Target) -> Result<Held, ApiError> {
    for _ in 0..HOLD_ATTEMPTS {
        match sessions.hold(target.clone()) {
            Ok(held) => return Ok(held),
            Err(InUse::Connected(_) | InUse::Attached(_) | InUse::Held) => {
                cairn_uring::sleep(HOLD_PAUSE).await;
            }
            Err(_) => break,
        }
    }
    sessions.hold(target.clone()).map_err(|why| convert::in_use(&target, &why))
}

pub(super) fn list<D: Disk>(volumes: &Volumes<D>, volume: &str) -> cairn_cow::Result<AttachmentList> {
    let (_, pool) = volumes.pools.of_volume(volume)?;
    let mut attachments = volumes.sessions.attachments(&Target::Head { volume: volume.to_owned() });
    for snapshot in pool.snapshots(Some(volume))? {
        let target = Target::Snapshot { volume: snapshot.volume, name: snapshot.name };
        attachments.extend(volumes.sessions.attachments(&target));
    }
    Ok(AttachmentList { attachments })
}

/// Ends the connections to `target` and lets no new ones in until all are gone.
pub(super) async fn end(sessions: &Arc<Sessions>, target: &Target, force: bool) -> Result<(), ApiError> {
    let _closed: Closed = sessions.close(target.clone()).map_err(|why| convert::in_use(target, &why))?;
    for _ in 0..END_ATTEMPTS {
        sessions.end(target, force);
        if sessions.connections(target) == 0 {
            return Ok(());
        }
        cairn_uring::sleep(END_PAUSE).await;
    }
    Err(ApiError::new(ErrorCode::Timeout, format!("{target} has connections that do not end")).with_hint(
        if force {
            "the disk holds their requests back: see the daemon's log and the kernel's"
        } else {
            "cut them with --force"
        },
    ))
}

/// How the kernel's devices name a version.
fn key<D: Disk>(pool: &Pool<D>, id: VersionId) -> VolumeKey {
    VolumeKey { pool: pool.id(), version: id.0 }
}

fn devices<D: Disk>(c: &Context<D>) -> Result<Arc<dyn Devices>, ApiError> {
    let none = || ApiError::new(ErrorCode::Unsupported, "this daemon cannot reach the kernel's devices");
    c.devices.clone().ok_or_else(none)
}

/// Tells the kernel a version's size, which was `known` to it. The volume has it even if the kernel cannot be told.
pub(super) async fn tell_size<D: Disk>(c: &Context<D>, pool: &Pool<D>, id: VersionId, known: Option<u64>) {
    let Some(devices) = c.devices.clone() else { return };
    let mut told = known;
    // Until it was told the present one: of two who tell it at once the one who is late may know less.
    while let Ok(size) = pool.size_of(id)
        && told != Some(size)
    {
        let (devices, key) = (Arc::clone(&devices), key(pool, id));
        if let Err(error) = blocking(move || devices.resize(key, size)).await {
            tracing::warn!(%error, size, "the kernel does not know the volume's new size");
            return;
        }
        told = Some(size);
    }
}

/// Runs on the control side, as all that asks the kernel: it may be waiting for a reactor itself.
pub(super) async fn attach<D: Disk>(
    c: Context<D>,
    volume: String,
    request: Attach,
) -> Result<Attachment, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    if request.snapshot.is_none() {
        volumes::refuse_remains(&pool, &volume)?;
    }
    let target = Target::of(volume, request.snapshot);
    let export = target.export();
    let (version, _) = resolve_for_use(&pool, &export).map_err(|e| convert::error(&e))?;
    let kernel = devices(&c)?;
    let sessions = &c.volumes.sessions;
    // Before the kernel opens its connections, so that nobody comes in between.
    sessions
        .pin(target.clone(), &unnamed_device(), || is_shared_now(&pool, &export, &version))
        .map_err(|why| convert::in_use(&target, &why))?;
    let asked = devices::Attach {
        key: key(&pool, version.id),
        export,
        size: version.size,
        read_only: request.read_only || !version.writable,
        device: request.device,
        connections: request.connections,
    };
    match blocking(move || kernel.attach(&asked)).await {
        Ok(device) => {
            sessions.name_device(&target, &Consumer::Kernel { device });
            // It may have grown while there was no device yet to be told.
            tell_size(&c, &pool, version.id, Some(version.size)).await;
        }
        Err(error) => {
            sessions.unpin(&target, &unnamed_device());
            return Err(error);
        }
    }
    let attached = sessions.attachments(&target).into_iter();
    let kernels = |a: &Attachment| matches!(a.consumer, Consumer::Kernel { .. });
    let gone = || ApiError::new(ErrorCode::Busy, format!("{target} was detached right away"));
    attached.into_iter().find(kernels).ok_or_else(gone)
}

/// Detaches the kernel's device of `target`, if it has one.
async fn detach_device<D: Disk>(
    c: &Context<D>,
    pool: &Pool<D>,
    target: &Target,
    force: bool,
) -> Result<(), ApiError> {
    let kernels = |a: &Attachment| matches!(a.consumer, Consumer::Kernel { .. });
    let sessions = &c.volumes.sessions;
    if !sessions.attachments(target).iter().any(kernels) {
        return Ok(());
    }
    let (kernel, id) = (devices(c)?, pool.resolve(&target.export()).map_err(|e| convert::error(&e))?.id);
    let key = key(pool, id);
    blocking(move || kernel.detach(key, force)).await?;
    sessions.unpin(target, &unnamed_device());
    Ok(())
}

/// Lets the kernel's device of `target` go without detaching it.
async fn forget_device<D: Disk>(c: &Context<D>, pool: &Pool<D>, target: &Target) {
    if let (Ok(kernel), Ok(version)) = (devices(c), pool.resolve(&target.export())) {
        let key = key(pool, version.id);
        let forget = blocking(move || {
            kernel.forget(key);
            Ok(())
        });
        if let Err(error) = forget.await {
            tracing::warn!(%error, "cannot forget a kernel device");
        }
    }
    c.volumes.sessions.unpin(target, &unnamed_device());
}

/// Runs on the control side, as [`attach`] does.
pub(super) async fn detach<D: Disk>(
    c: Context<D>,
    volume: String,
    request: Detach,
) -> Result<AttachmentList, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    if let Some(snapshot) = &request.snapshot {
        pool.snapshot(&volume, snapshot).map_err(|e| convert::error(&e))?;
    }
    let target = Target::of(volume.clone(), request.snapshot);
    if c.volumes.sessions.attachments(&target).is_empty() {
        return Err(ApiError::new(ErrorCode::NotFound, format!("{target} is not attached to anybody")));
    }
    detach_device(&c, &pool, &target, request.force).await?;
    c.run(async move |c| {
        end(&c.volumes.sessions, &target, request.force).await?;
        list(&c.volumes, &volume).map_err(|e| convert::error(&e))
    })
    .await
}

/// Runs on the control side, as [`attach`] does.
pub(super) async fn reset<D: Disk>(c: Context<D>, volume: String) -> Result<AttachmentList, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    for attachment in list(&c.volumes, &volume).map_err(|e| convert::error(&e))?.attachments {
        let target = Target::of_export(&attachment.export);
        if let Err(error) = detach_device(&c, &pool, &target, true).await {
            tracing::warn!(%error, export = attachment.export, "forgetting a kernel device");
            forget_device(&c, &pool, &target).await;
        }
    }
    c.run(async move |c| {
        end(&c.volumes.sessions, &Target::Volume { volume: volume.clone() }, true).await?;
        list(&c.volumes, &volume).map_err(|e| convert::error(&e))
    })
    .await
}
