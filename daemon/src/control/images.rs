//! Images: what they are to users, from import or volume to deletion. How the pools keep them: [`crate::images`].
//!
//! ```text
//! import    create, unready ─► written over NBD ─► complete: snapshot, ready      a crash, or a client that is gone:
//! create    snapshot the volume ─► clone, unready ─► snapshot, ready              what is not ready is deleted
//! ```

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::{
    CreateImage, CreateImport, EditImage, Image, ImageFields, ImageFormat, ImageList, ImageQuery,
    ImageSource, ImageStatus, Import, SECTOR_BYTES,
};
use cairn_api::job::{JobKind, JobState};
use cairn_api::list::ListQuery;
use cairn_api::pool::MAIN_POOL;
use cairn_api::tags::{self, Tags};
use cairn_api::text;
use cairn_cow::{
    Disk, Edit, ErrorKind, Holder, MAX_VOLUME_BYTES, NewVolume, Pool, Result as CowResult, VersionId,
    VolumeInfo,
};

use super::attachments;
use super::context::{Context, busy, check_name, check_tag_changes, invalid, volumes_counted};
use super::convert::api;
use super::list::{self, Listed};
use super::sessions::Target;
use super::{convert, jobs, leases, restores, volumes};
use crate::images::{
    CONTENTS, FoundImage, IMPORT_PREFIX, ImageSettings, VOLUME_IMAGE, forget_passing, in_pool,
};
use crate::jobs::{import_of_image, job_id, tell_begun};
use crate::keeper::random_hex;
use crate::pools::refuse_oversized;
use crate::settings::{self, encode, tag_attributes, tag_changes};
use crate::volumes::Volumes;

/// Finds an image.
pub(super) fn find<D: Disk>(volumes: &Volumes<D>, name: &str) -> Result<FoundImage<D>, ApiError> {
    volumes.image(name).map_err(|e| convert::error(&e).with_hint("\"cairn image list\" shows what there is"))
}

/// How many volumes there are of each image of a pool, by what the engine calls it.
fn usage<D: Disk>(pool: &Pool<D>) -> HashMap<String, u64> {
    let mut usage = HashMap::new();
    for VolumeInfo { origin, .. } in pool.volumes() {
        if let Some(origin) = origin.filter(|origin| origin.snapshot == CONTENTS) {
            *usage.entry(origin.volume).or_insert(0) += 1;
        }
    }
    usage
}

fn shown<D: Disk>(found: FoundImage<D>, usage: &HashMap<String, u64>) -> Image {
    let FoundImage { pool_name, volume, settings, .. } = found;
    Image {
        name: settings.name,
        id: volume.id.0,
        status: if settings.ready { ImageStatus::Available } else { ImageStatus::Importing },
        size: volume.size,
        mapped: volume.mapped,
        created: convert::time(volume.created_ms),
        description: volume.description,
        format: settings.format,
        os_type: settings.os_type,
        min_disk: settings.min_disk,
        min_memory: settings.min_memory,
        protected: settings.protected,
        source: settings.source,
        pool: pool_name,
        volumes: usage.get(&volume.name).copied().unwrap_or(0),
        tags: settings::tags(&volume.attributes),
    }
}

impl Listed for Image {
    const SORTED_BY: &'static [&'static str] =
        &["name", "size", "used", "created", "status", "os-type", "pool"];

    fn key(&self) -> String {
        self.name.clone()
    }

    fn order(&self, other: &Image, by: &str) -> Ordering {
        match by {
            "size" => self.size.cmp(&other.size),
            "used" => self.mapped.cmp(&other.mapped),
            "created" => (self.created, self.id).cmp(&(other.created, other.id)),
            "status" => self.status.as_str().cmp(other.status.as_str()),
            "os-type" => self.os_type.cmp(&other.os_type),
            "pool" => self.pool.cmp(&other.pool),
            _ => self.usual_order(other),
        }
    }

    fn usual_order(&self, other: &Image) -> Ordering {
        self.name.cmp(&other.name)
    }
}

/// The images that are asked for.
pub(super) fn list<D: Disk>(volumes: &Volumes<D>, query: &ImageQuery) -> Result<ImageList, ApiError> {
    let asked = query.asked();
    list::check(asked, &[&query.pool])?;
    query.os_type.as_deref().map_or(Ok(()), check_os_type)?;
    let mut images = Vec::new();
    for (name, pool) in volumes.pools.open() {
        let usage = usage(&pool);
        images.extend(in_pool(&name, &pool).into_iter().map(|found| shown(found, &usage)));
    }
    images.retain(|image| {
        list::found(asked, &[&image.name, &image.description], &image.tags)
            && list::is(query.status, image.status)
            && list::is(query.os_type.as_deref(), image.os_type.as_deref().unwrap_or_default())
            && list::is(query.pool.as_deref(), &image.pool)
            && list::is(query.protected, image.protected)
    });
    let (images, next) = list::select(images, asked)?;
    Ok(ImageList { images, next })
}

pub(super) fn show<D: Disk>(volumes: &Volumes<D>, name: &str) -> Result<Image, ApiError> {
    let found = find(volumes, name)?;
    let usage = usage(&found.pool);
    Ok(shown(found, &usage))
}

fn check_os_type(text: &str) -> Result<(), ApiError> {
    text::check_line("an OS type", text, text::MAX_OS_TYPE_CHARS).map_err(invalid)
}

fn check_file(name: &str) -> Result<(), ApiError> {
    if name.is_empty() {
        return Err(invalid("a file's name must not be empty"));
    }
    text::check_line("a file's name", name, text::MAX_FILE_NAME_CHARS).map_err(invalid)
}

/// Checks how large users say that disks or memory must be at least.
fn check_least(sizes: [Option<u64>; 2]) -> Result<(), ApiError> {
    match sizes.into_iter().flatten().find(|size| *size > MAX_VOLUME_BYTES) {
        Some(size) => Err(invalid(format!("{size} bytes are more than {MAX_VOLUME_BYTES} (64 TiB)"))),
        None => Ok(()),
    }
}

/// What is kept of a new image of this name, which nobody has yet.
fn new_settings<D: Disk>(
    c: &Context<D>,
    name: String,
    format: ImageFormat,
    fields: &ImageFields,
    source: ImageSource,
) -> Result<ImageSettings, ApiError> {
    check_name(&name)?;
    is_free(c, &name)?;
    fields.os_type.as_deref().map_or(Ok(()), check_os_type)?;
    check_least([Some(fields.min_disk), Some(fields.min_memory)])?;
    tags::check(&fields.tags).map_err(invalid)?;
    Ok(ImageSettings {
        name,
        ready: false,
        format,
        os_type: fields.os_type.clone().filter(|text| !text.is_empty()),
        min_disk: fields.min_disk,
        min_memory: fields.min_memory,
        protected: fields.protected,
        source,
    })
}

fn is_free<D: Disk>(c: &Context<D>, name: &str) -> Result<(), ApiError> {
    if c.volumes.image(name).is_err() {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Exists, format!("there is already an image '{name}'"))
        .with_hint("choose another name"))
}

/// What is kept on a new image.
fn attributes(settings: &ImageSettings, tags: &Tags) -> Vec<(String, String)> {
    let mut attributes = tag_attributes(tags);
    attributes.push((VOLUME_IMAGE.to_owned(), encode(settings)));
    attributes
}

fn borrowed(attributes: &[(String, String)]) -> Vec<(&str, &str)> {
    attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect()
}

/// What the engine is to call a new image.
fn engine_name() -> Result<String, ApiError> {
    Ok(format!("img-{}", random_hex()?))
}

/// Takes the snapshot that is the image and says that it is ready, both for good.
async fn finish<D: Disk>(pool: &Pool<D>, volume: &str, settings: &ImageSettings) -> CowResult<()> {
    match pool.create_snapshots(&[(volume, CONTENTS)], "").await {
        // Tried before, and the answer was lost or what comes next failed.
        Err(error) if error.kind() == ErrorKind::Exists => {}
        taken => drop(taken?),
    }
    let ready = encode(&ImageSettings { ready: true, ..settings.clone() });
    pool.set_attributes(Holder::Volume(volume), &[(VOLUME_IMAGE, Some(&ready))]).await
}

/// Runs on the control side.
pub(super) async fn import<D: Disk>(c: Context<D>, request: CreateImport) -> Result<Import, ApiError> {
    let (import, pool, id) = c.change(async move |c| begin(&c, request).await).await?;
    if let Ok(found) = find_import(&c, &import.image.name) {
        tell_begun(&c.volumes.events, &import_of_image(&found));
    }
    let name = import.image.name.clone();
    tokio::spawn(async move {
        let looked = Arc::clone(&c.volumes);
        let over = || looked.image(&name).map_or(true, |image| image.settings.ready || image.volume.id != id);
        if leases::deserted(&c, &pool, id, over).await {
            abandon(&c, name.clone(), id).await;
        }
    });
    Ok(import)
}

async fn begin<D: Disk>(
    c: &Context<D>,
    request: CreateImport,
) -> Result<(Import, Arc<Pool<D>>, VersionId), ApiError> {
    let CreateImport { name, size, format, file, fields, pool } = request;
    check_file(&file)?;
    check_size(size)?;
    let settings = new_settings(c, name.clone(), format, &fields, ImageSource::File { name: file })?;
    let pool_name = pool.as_deref().unwrap_or(MAIN_POOL);
    let pool = api(c.volumes.pools.get(pool_name))?;
    refuse_oversized((pool_name, &pool), size)?;
    let volume = engine_name()?;
    let kept = attributes(&settings, &fields.tags);
    let kept = borrowed(&kept);
    let new = NewVolume { name: &volume, description: &fields.description, attributes: &kept };
    let made = api(pool.create_volume_with(new, size).await)?;
    let job = job_id(JobKind::Import, &volume);
    let import = Import { image: show(&c.volumes, &name)?, job, export: format!("{IMPORT_PREFIX}{volume}") };
    Ok((import, pool, made.id))
}

fn check_size(size: u64) -> Result<(), ApiError> {
    if size.is_multiple_of(SECTOR_BYTES) {
        return Ok(());
    }
    Err(invalid(format!("an image of {size} bytes: the size must be a multiple of {SECTOR_BYTES}"))
        .with_hint("round it up: what is not written is zeroes"))
}

/// An image that is being imported.
fn find_import<D: Disk>(c: &Context<D>, name: &str) -> Result<FoundImage<D>, ApiError> {
    let found = find(&c.volumes, name)?;
    if found.settings.ready {
        return Err(ApiError::new(ErrorCode::ReadOnly, format!("the image '{name}' is complete")));
    }
    Ok(found)
}

pub(super) async fn grow<D: Disk>(c: Context<D>, name: String, size: u64) -> Result<Image, ApiError> {
    check_size(size)?;
    let found = find_import(&c, &name)?;
    refuse_oversized((&found.pool_name, &found.pool), size)?;
    api(found.pool.resize_volume(&found.volume.name, size).await)?;
    show(&c.volumes, &name)
}

/// Ends what is written to the image, and makes it one. Answers the same when it is tried again.
///
/// Runs on the control side: other changes do not wait for the writer's connection to end.
pub(super) async fn complete<D: Disk>(c: Context<D>, name: String) -> Result<Image, ApiError> {
    let found = find(&c.volumes, &name)?;
    if found.settings.ready {
        return show(&c.volumes, &name);
    }
    end_writer(&c, &found, false).await?;
    c.change(async move |c| {
        let found = find(&c.volumes, &name)?;
        let FoundImage { pool, volume, settings, .. } = &found;
        if !settings.ready {
            jobs::end(&c, import_of_image(&found), JobState::Done, None).await;
            api(finish(pool, &volume.name, settings).await)?;
        }
        show(&c.volumes, &name)
    })
    .await
}

async fn end_writer<D: Disk>(c: &Context<D>, found: &FoundImage<D>, force: bool) -> Result<(), ApiError> {
    let target = Target::Head { volume: found.volume.name.clone() };
    c.run(async move |c| attachments::end(&c.volumes.sessions, &target, force).await).await
}

/// Gives an import up: whoever writes is cut off. Runs on the control side, as [`complete`] does.
pub(super) async fn cancel<D: Disk>(c: Context<D>, name: String) -> Result<(), ApiError> {
    let import = find_import(&c, &name)?;
    if let Err(error) = end_writer(&c, &import, true).await
        && error.code != ErrorCode::Busy
    {
        return Err(error);
    }
    // Whoever is cut off gives it up, too: that is done, or about to be.
    c.change(async move |c| match find(&c.volumes, &name) {
        Ok(found) if found.volume.id == import.volume.id => {
            give_up(&c, &find_import(&c, &name)?, JobState::Cancelled, None).await
        }
        _ => Ok(()),
    })
    .await
}

/// Deletes an image that is still being imported.
async fn give_up<D: Disk>(
    c: &Context<D>,
    found: &FoundImage<D>,
    state: JobState,
    error: Option<ApiError>,
) -> Result<(), ApiError> {
    let job = jobs::end(c, import_of_image(found), state, error).await;
    remove(c, found).await?;
    jobs::tell(c, &job);
    Ok(())
}

async fn remove<D: Disk>(c: &Context<D>, found: &FoundImage<D>) -> Result<(), ApiError> {
    let FoundImage { pool, volume, settings, .. } = found;
    let target = Target::Volume { volume: volume.name.clone() };
    let held = attachments::hold(&c.volumes.sessions, target).await;
    let _held = held.map_err(|_| {
        busy(format!("the image '{}' is being read", settings.name))
            .with_hint("disconnect the NBD clients first")
    })?;
    api(pool.delete_volume(&volume.name, true).await)?;
    c.volumes.forget_use(pool, volume.id);
    Ok(())
}

/// Deletes what a client began to import that is gone, unless it has come back.
async fn abandon<D: Disk>(c: &Context<D>, name: String, id: VersionId) {
    let abandoned = c.change(async move |c| {
        let Ok(found) = find_import(&c, &name) else { return Ok(false) };
        let target = Target::Head { volume: found.volume.name.clone() };
        if found.volume.id != id || c.volumes.sessions.connections(&target) > 0 {
            return Ok(false);
        }
        give_up(&c, &found, JobState::Failed, Some(jobs::deserted())).await.map(|()| true)
    });
    match abandoned.await {
        Ok(true) => tracing::warn!("whoever imported an image is gone: it is deleted"),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "whoever imported an image is gone, and it is left"),
    }
}

pub(super) async fn create<D: Disk>(c: Context<D>, request: CreateImage) -> Result<Image, ApiError> {
    let CreateImage { name, volume, snapshot, fields } = request;
    let source = ImageSource::Volume { volume: volume.clone(), snapshot: snapshot.clone() };
    let settings = new_settings(&c, name.clone(), ImageFormat::Raw, &fields, source)?;
    restores::refuse(&c, &volume)?;
    let (_, pool) = c.pool_of(&volume)?;
    match &snapshot {
        Some(snapshot) => clone_of(&pool, (&volume, snapshot), &fields, &settings).await?,
        None => {
            volumes::refuse_remains(&pool, &volume)?;
            let passing = format!("image-{}", random_hex()?);
            api(leases::take_marked(&pool, &volume, &passing).await)?;
            let cloned = clone_of(&pool, (&volume, &passing), &fields, &settings).await;
            let forgotten = forget_passing(&pool, &volume, &passing).await;
            cloned?;
            api(forgotten)?;
        }
    }
    show(&c.volumes, &name)
}

async fn clone_of<D: Disk>(
    pool: &Pool<D>,
    (source, snapshot): (&str, &str),
    fields: &ImageFields,
    settings: &ImageSettings,
) -> Result<(), ApiError> {
    let volume = engine_name()?;
    let kept = attributes(settings, &fields.tags);
    let kept = borrowed(&kept);
    let new = NewVolume { name: &volume, description: &fields.description, attributes: &kept };
    api(pool.clone_volume_with(source, snapshot, new, None).await)?;
    let finished = finish(pool, &volume, settings).await;
    if finished.is_err() {
        // The next start would delete it, too. What went wrong first counts.
        let _ = pool.delete_volume(&volume, true).await;
    }
    api(finished)
}

pub(super) async fn edit<D: Disk>(
    c: Context<D>,
    name: String,
    request: EditImage,
) -> Result<Image, ApiError> {
    let EditImage { name: renamed, description, os_type, min_disk, min_memory, protected, tags } = request;
    let FoundImage { pool, volume, settings: mut image, .. } = find(&c.volumes, &name)?;
    if !image.ready {
        return Err(busy(format!("the image '{name}' is still being imported")));
    }
    if let Some(new) = renamed.filter(|new| *new != name) {
        check_name(&new)?;
        is_free(&c, &new)?;
        image.name = new;
    }
    check_least([min_disk, min_memory])?;
    check_tag_changes(&settings::tags(&volume.attributes), &tags)?;
    if let Some(text) = os_type {
        check_os_type(&text)?;
        image.os_type = Some(text).filter(|text| !text.is_empty());
    }
    image.min_disk = min_disk.unwrap_or(image.min_disk);
    image.min_memory = min_memory.unwrap_or(image.min_memory);
    image.protected = protected.unwrap_or(image.protected);
    let (kept, tags) = (encode(&image), tag_changes(&tags));
    let mut attributes: Vec<_> = tags.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    attributes.push((VOLUME_IMAGE, Some(&kept)));
    let edit = Edit { name: None, description: description.as_deref(), attributes: &attributes };
    api(pool.edit_volume(&volume.name, edit).await)?;
    show(&c.volumes, &image.name)
}

/// Runs on the control side, as [`complete`] does.
pub(super) async fn delete<D: Disk>(c: Context<D>, name: String, force: bool) -> Result<(), ApiError> {
    if find(&c.volumes, &name)?.settings.ready {
        return c.change(async move |c| delete_ready(&c, &name, force).await).await;
    }
    if !force {
        return Err(busy(format!("the image '{name}' is still being imported"))
            .with_hint("stop the import where it was started, or give --force"));
    }
    cancel(c, name).await
}

async fn delete_ready<D: Disk>(c: &Context<D>, name: &str, force: bool) -> Result<(), ApiError> {
    let found = find(&c.volumes, name)?;
    if found.settings.protected {
        return Err(busy(format!("the image '{name}' is protected"))
            .with_hint(format!("first take that off: cairn image edit {name} --protected off")));
    }
    let volumes = usage(&found.pool).get(&found.volume.name).copied().unwrap_or(0);
    if volumes > 0 && !force {
        return Err(busy(format!("the image '{name}' is that of {}", volumes_counted(volumes)))
            .with_hint("they live on if you delete it with --force"));
    }
    remove(c, &found).await
}

/// The size of a volume that is made from an image: what was asked for, else what the image asks for.
pub(super) fn volume_size<D: Disk>(found: &FoundImage<D>, asked: Option<u64>) -> Result<u64, ApiError> {
    let name = &found.settings.name;
    if !found.settings.ready {
        return Err(busy(format!("the image '{name}' is still being imported")));
    }
    let least = found.volume.size.max(found.settings.min_disk);
    match asked {
        Some(size) if size < least => Err(ApiError::new(
            ErrorCode::Shrink,
            format!("a volume from the image '{name}' needs at least {least} bytes, not {size}"),
        )),
        asked => Ok(asked.unwrap_or(least)),
    }
}
