//! Snapshots: what they are to users, from creation to deletion.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::list::ListQuery;
use cairn_api::snapshot::{
    CreateGroup, CreateHold, CreateSnapshot, DiffQuery, EditSnapshot, ResetSnapshotStatus, Rollback,
    RolledBack, SetSnapshotStatus, Snapshot, SnapshotList, SnapshotQuery, SnapshotStatus,
};
use cairn_api::tags::{self, Tags};
use cairn_api::volume::SetStatus;
use cairn_cow::{
    Attributes, DiffExtent, Disk, Edit, Holder, NewSnapshots, Pool, Result as CowResult, SnapshotInfo,
};
use jiff::Timestamp;

use super::context::{
    Context, check_name, check_reason, check_tag_changes, conflict, invalid, status_to_keep,
};
use super::convert::api;
use super::list::{self, Listed};
use super::sessions::Target;
use super::tokens::Token;
use super::{attachments, convert, restores, stagings, volumes};
use crate::images::{is_passing, unmark_passing};
use crate::remains::{VOLUME_REMAINS, delete_if_bare, is_remains};
use crate::settings::{
    self, KeptHold, encode, hold_key, holds, is_set, kept_status, tag_attributes, tag_changes,
};
use crate::staging::is_hidden;
use crate::volumes::Volumes;

/// What of its volume and its pool a snapshot shows.
struct Around {
    kept: Attributes,
    fenced: Option<String>,
}

fn shown_with<D: Disk>(volumes: &Volumes<D>, around: &Around, info: SnapshotInfo) -> Snapshot {
    let target = Target::Snapshot { volume: info.volume.clone(), name: info.name.clone() };
    let connections = volumes.sessions.count(&target) as u64;
    let for_backup =
        is_set(&info.attributes, settings::SNAPSHOT_FOR_BACKUP) || is_passing(&around.kept, &info.name);
    let (status, reason) = match (&around.fenced, kept_status(&info.attributes)) {
        (Some(why), _) => (SnapshotStatus::Error, Some(convert::fenced(why))),
        (None, Some(said)) => (SnapshotStatus::Error, Some(said.why())),
        (None, None) if connections == 0 => (SnapshotStatus::Available, None),
        (None, None) if for_backup => (SnapshotStatus::BackingUp, None),
        (None, None) => (SnapshotStatus::InUse, None),
    };
    Snapshot {
        connections,
        status,
        reason,
        project: settings::project(&around.kept).to_owned(),
        tags: settings::tags(&info.attributes),
        holds: holds(&info.attributes),
        volume: info.volume,
        name: info.name,
        id: info.id.0,
        size: info.size,
        mapped: info.mapped,
        created: convert::time(info.created_ms),
        description: info.description,
        automatic: info.automatic || for_backup,
        children: info.children as u64,
    }
}

fn around<D: Disk>(pool: &Pool<D>, volume: &str) -> Around {
    // It may be deleted between two looks.
    let kept = pool.attributes(Holder::Volume(volume)).unwrap_or_default();
    Around { kept, fenced: pool.status().fenced }
}

/// A snapshot as users see it.
pub(super) fn shown<D: Disk>(volumes: &Volumes<D>, pool: &Pool<D>, info: SnapshotInfo) -> Snapshot {
    shown_with(volumes, &around(pool, &info.volume), info)
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>, volume: &str, name: &str) -> CowResult<Snapshot> {
    let (_, pool) = volumes.pools.of_volume(volume)?;
    Ok(shown(volumes, &pool, pool.snapshot(volume, name)?))
}

impl Listed for Snapshot {
    const SORTED_BY: &'static [&'static str] = &["volume", "name", "size", "used", "created"];

    fn key(&self) -> String {
        format!("{}@{}", self.volume, self.name)
    }

    fn order(&self, other: &Snapshot, by: &str) -> Ordering {
        match by {
            "name" => self.name.cmp(&other.name),
            "size" => self.size.cmp(&other.size),
            "used" => self.mapped.cmp(&other.mapped),
            "created" => (self.created, self.id).cmp(&(other.created, other.id)),
            _ => self.volume.cmp(&other.volume),
        }
    }

    fn usual_order(&self, other: &Snapshot) -> Ordering {
        let place = |snapshot: &Snapshot| (snapshot.created, snapshot.id);
        self.volume.cmp(&other.volume).then_with(|| place(self).cmp(&place(other)))
    }
}

/// The snapshots that are asked for.
pub(super) fn list<D: Disk>(volumes: &Volumes<D>, query: &SnapshotQuery) -> Result<SnapshotList, ApiError> {
    let mut asked = query.asked();
    // Of one volume's, a name says enough.
    let name_alone = query.volume.as_deref().zip(asked.after.filter(|after| !after.contains('@')));
    let key = name_alone.map(|(volume, name)| format!("{volume}@{name}"));
    asked.after = key.as_deref().or(asked.after);
    list::check(asked, &[&query.project])?;
    let mut found = Vec::new();
    let pools = match &query.volume {
        Some(volume) => vec![api(volumes.pools.of_volume(volume))?],
        None => volumes.pools.open(),
    };
    for (_, pool) in pools {
        let around: HashMap<String, Around> = match &query.volume {
            Some(volume) => HashMap::from([(volume.clone(), around(&pool, volume))]),
            None => {
                let fenced = pool.status().fenced;
                let users = pool.volumes().into_iter().filter(|volume| !is_hidden(&volume.attributes));
                let of = |kept| Around { kept, fenced: fenced.clone() };
                users.map(|volume| (volume.name, of(volume.attributes))).collect()
            }
        };
        let infos = api(pool.snapshots(query.volume.as_deref()))?.into_iter();
        found.extend(infos.filter_map(|info| Some(shown_with(volumes, around.get(&info.volume)?, info))));
    }
    found.retain(|snapshot| {
        list::found(asked, &[&snapshot.name, &snapshot.description], &snapshot.tags)
            && list::is(query.status, snapshot.status)
            && list::is(query.project.as_deref(), &snapshot.project)
            && list::is(query.automatic, snapshot.automatic)
            && list::is(query.held, !snapshot.holds.is_empty())
    });
    let (snapshots, next) = list::select(found, asked)?;
    Ok(SnapshotList { snapshots, next })
}

/// What is to be said of snapshots, and by which request they are made.
struct Said<'a> {
    description: &'a str,
    tags: &'a Tags,
    for_backup: bool,
    token: Option<Token>,
}

/// Takes snapshots of volumes of one pool at one moment, unless the same request did before.
async fn take<D: Disk>(
    c: &Context<D>,
    pool: &Pool<D>,
    of: &[(&str, &str)],
    said: Said<'_>,
) -> Result<Vec<Snapshot>, ApiError> {
    let Said { description, tags, for_backup, token } = said;
    tags::check(tags).map_err(invalid)?;
    let made = match &token {
        Some(token) => token.snapshots(api(pool.snapshots(None))?)?,
        None => Vec::new(),
    };
    let made = if made.is_empty() {
        let tags = tag_attributes(tags);
        let mut attributes: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        attributes.extend(token.as_ref().map(|token| (settings::TOKEN, token.kept.as_str())));
        attributes.extend(for_backup.then_some((settings::SNAPSHOT_FOR_BACKUP, settings::YES)));
        let new = NewSnapshots { of, description, attributes: &attributes };
        api(pool.create_snapshots_with(new).await)?
    } else {
        made
    };
    Ok(made.into_iter().map(|info| shown(&c.volumes, pool, info)).collect())
}

pub(super) async fn create<D: Disk>(
    c: Context<D>,
    volume: String,
    request: CreateSnapshot,
) -> Result<Snapshot, ApiError> {
    restores::refuse(&c, &volume)?;
    let (_, pool) = c.pool_of(&volume)?;
    volumes::refuse_remains(&pool, &volume)?;
    let token = Token::of(request.client_token.as_deref(), &(&volume, &request))?;
    let CreateSnapshot { name, description, tags, for_backup, .. } = &request;
    let said = Said { description, tags, for_backup: *for_backup, token };
    let made = take(&c, &pool, &[(&volume, name)], said).await?;
    made.into_iter().next().ok_or_else(|| ApiError::new(ErrorCode::Internal, "the engine made no snapshot"))
}

pub(super) async fn create_group<D: Disk>(
    c: Context<D>,
    request: CreateGroup,
) -> Result<SnapshotList, ApiError> {
    let of: Vec<_> = request.members.iter().map(|m| (m.volume.as_str(), m.name.as_str())).collect();
    of.iter().try_for_each(|(volume, _)| restores::refuse(&c, volume))?;
    let mut pools = of.iter().map(|(volume, _)| c.pool_of(volume)).collect::<Result<Vec<_>, _>>()?;
    pools.dedup_by(|a, b| a.0 == b.0);
    let pool = match pools.as_slice() {
        [] => Arc::clone(c.volumes.pools.main()),
        [(_, pool)] => Arc::clone(pool),
        [(one, _), (other, _), ..] => {
            let why = format!("these volumes are in several pools, '{one}' and '{other}' among them");
            return Err(conflict(why).with_hint("a pool has one order of writes: snapshot each on its own"));
        }
    };
    of.iter().try_for_each(|(volume, _)| volumes::refuse_remains(&pool, volume))?;
    let token = Token::of(request.client_token.as_deref(), &request)?;
    let CreateGroup { description, tags, .. } = &request;
    let said = Said { description, tags, for_backup: false, token };
    let snapshots = take(&c, &pool, &of, said).await?;
    Ok(SnapshotList { snapshots, next: None })
}

pub(super) async fn edit<D: Disk>(
    c: Context<D>,
    volume: String,
    name: String,
    request: EditSnapshot,
) -> Result<Snapshot, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    let now = api(pool.snapshot(&volume, &name))?;
    check_tag_changes(&settings::tags(&now.attributes), &request.tags)?;
    let target = Target::Snapshot { volume: volume.clone(), name: name.clone() };
    // Clients that come back ask for the name they know.
    let renamed = request.name.as_deref().is_some_and(|new| new != name);
    let _held = if renamed { Some(attachments::hold(&c.volumes.sessions, target).await?) } else { None };
    let tags = tag_changes(&request.tags);
    let attributes: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    let edit = Edit {
        name: request.name.as_deref(),
        description: request.description.as_deref(),
        attributes: &attributes,
    };
    let edited = api(pool.edit_snapshot(&volume, &name, edit).await)?;
    Ok(shown(&c.volumes, &pool, edited))
}

/// Says what is to be thought of a snapshot.
pub(super) async fn reset_status<D: Disk>(
    c: Context<D>,
    volume: String,
    name: String,
    request: ResetSnapshotStatus,
) -> Result<Snapshot, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    let status = match request.status {
        SetSnapshotStatus::Available => SetStatus::Available,
        SetSnapshotStatus::Error => SetStatus::Error,
    };
    let kept = status_to_keep("snapshot", status, request.reason)?;
    let edit = Edit { attributes: &[(settings::STATUS, kept.as_deref())], ..Edit::default() };
    let edited = api(pool.edit_snapshot(&volume, &name, edit).await)?;
    Ok(shown(&c.volumes, &pool, edited))
}

/// Refuses to delete what is held.
pub(super) fn refuse_held(snapshot: &SnapshotInfo) -> Result<(), ApiError> {
    let SnapshotInfo { volume, name, attributes, .. } = snapshot;
    let held = holds(attributes);
    let Some(hold) = held.first() else { return Ok(()) };
    let reason = if hold.reason.is_empty() { String::new() } else { format!(" ({})", hold.reason) };
    let more = match held.len() - 1 {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let why = format!("the snapshot '{volume}@{name}' is held by '{}'{reason}{more}", hold.name);
    let hint = format!("release it first: cairn snapshot release {volume} {name} {}", hold.name);
    Err(ApiError::new(ErrorCode::Held, why).with_hint(hint))
}

/// Forbids to delete a snapshot.
pub(super) async fn hold<D: Disk>(
    c: Context<D>,
    volume: String,
    name: String,
    request: CreateHold,
) -> Result<Snapshot, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    let CreateHold { name: hold, reason } = request;
    check_name(&hold)?;
    check_reason(&reason)?;
    let now = api(pool.snapshot(&volume, &name))?;
    if holds(&now.attributes).iter().any(|present| present.name == hold) {
        let why = format!("the snapshot '{volume}@{name}' already has a hold '{hold}'");
        return Err(ApiError::new(ErrorCode::Exists, why).with_hint("choose another name"));
    }
    let kept = encode(&KeptHold { reason, since: Timestamp::now() });
    let changes = [(&*hold_key(&hold), Some(&*kept))];
    api(pool.set_attributes(Holder::Snapshot(&volume, &name), &changes).await)?;
    api(show(&c.volumes, &volume, &name))
}

/// Takes a hold away.
pub(super) async fn release<D: Disk>(
    c: Context<D>,
    volume: String,
    name: String,
    hold: String,
) -> Result<Snapshot, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    let now = api(pool.snapshot(&volume, &name))?;
    if !holds(&now.attributes).iter().any(|present| present.name == hold) {
        let why = format!("the snapshot '{volume}@{name}' has no hold '{hold}'");
        return Err(ApiError::new(ErrorCode::NotFound, why)
            .with_hint(format!("\"cairn snapshot show {volume} {name}\" shows what there is")));
    }
    api(pool.set_attributes(Holder::Snapshot(&volume, &name), &[(&*hold_key(&hold), None)]).await)?;
    api(show(&c.volumes, &volume, &name))
}

/// Deletes a snapshot; whether it was the last thing that was left of its volume.
pub(super) async fn delete<D: Disk>(c: Context<D>, volume: String, name: String) -> Result<bool, ApiError> {
    let (_, pool) = c.pool_of(&volume)?;
    refuse_held(&api(pool.snapshot(&volume, &name))?)?;
    let target = Target::Snapshot { volume: volume.clone(), name: name.clone() };
    let _held = attachments::hold(&c.volumes.sessions, target).await?;
    api(pool.delete_snapshot(&volume, &name).await)?;
    api(unmark_passing(&pool, &volume, &name).await)?;
    api(delete_if_bare(&pool, &volume).await)
}

/// What a version of the same pool holds otherwise than a snapshot.
pub(super) async fn diff<D: Disk>(
    c: &Context<D>,
    volume: &str,
    snapshot: &str,
    query: &DiffQuery,
) -> Result<Vec<DiffExtent>, ApiError> {
    let (pool_name, pool) = c.pool_of(volume)?;
    let Some(other) = &query.to_volume else {
        return api(pool.diff(volume, snapshot, query.to.as_deref()).await);
    };
    let (others, _) = c.pool_of(other)?;
    if others != pool_name {
        let why = format!("'{volume}' is in the pool '{pool_name}', '{other}' in '{others}'");
        return Err(conflict(why).with_hint("only what is in one pool is compared"));
    }
    let from = api(pool.resolve(&Target::of(volume.to_owned(), Some(snapshot.to_owned())).export()))?;
    let to = api(pool.resolve(&Target::of(other.clone(), query.to.clone()).export()))?;
    api(pool.diff_versions(from.id, to.id).await)
}

pub(super) async fn rollback<D: Disk>(
    c: Context<D>,
    volume: String,
    snapshot: String,
    request: Rollback,
) -> Result<RolledBack, ApiError> {
    restores::refuse(&c, &volume)?;
    stagings::refuse_replaced(&c, &volume)?;
    let (_, pool) = c.pool_of(&volume)?;
    volumes::refuse_protected(&pool, &volume)?;
    let (sessions, target) = (&c.volumes.sessions, Target::Head { volume: volume.clone() });
    let _held = if request.force { None } else { Some(attachments::hold(sessions, target).await?) };
    let undo = api(pool.rollback(&volume, &snapshot).await)?;
    if is_remains(&api(pool.attributes(Holder::Volume(&volume)))?) {
        api(pool.set_attributes(Holder::Volume(&volume), &[(VOLUME_REMAINS, None)]).await)?;
    }
    let undo = shown(&c.volumes, &pool, undo);
    Ok(RolledBack { volume: api(volumes::show(&c.volumes, &volume))?, undo })
}
