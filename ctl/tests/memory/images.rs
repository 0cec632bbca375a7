//! Images.

use cairn_api::error::{ApiError, ErrorCode};
use cairn_api::image::*;
use cairn_api::volume::{CreateVolume, Volume};
use jiff::Timestamp;

use super::state::State;
use super::{check_name, error};

impl State {
    pub(super) fn image(&self, name: &str) -> Result<Image, ApiError> {
        let found = self.images.iter().find(|image| image.name == name);
        found.cloned().ok_or_else(|| error(ErrorCode::NotFound, format!("there is no image {name:?}")))
    }

    fn image_mut(&mut self, name: &str) -> Result<&mut Image, ApiError> {
        let missing = error(ErrorCode::NotFound, format!("there is no image {name:?}"));
        self.images.iter_mut().find(|image| image.name == name).ok_or(missing)
    }

    fn add_image(&mut self, image: Image) -> Result<Image, ApiError> {
        check_name(&image.name)?;
        if self.image(&image.name).is_ok() {
            return Err(error(ErrorCode::Exists, format!("there is already an image {:?}", image.name)));
        }
        self.images.push(image.clone());
        self.images.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(image)
    }

    pub(super) fn create_image(&mut self, r: CreateImage) -> Result<Image, ApiError> {
        let size = self.volume(&r.volume)?.size;
        let source = ImageSource::Volume { volume: r.volume, snapshot: r.snapshot };
        let created = self.tick();
        self.add_image(blank(r.name, size, ImageFormat::Raw, r.fields, source, created))
    }

    pub(super) fn create_import(&mut self, r: CreateImport) -> Result<Import, ApiError> {
        let (created, source) = (self.tick(), ImageSource::File { name: r.file });
        let mut image = blank(r.name, r.size, r.format, r.fields, source, created);
        image.status = ImageStatus::Importing;
        let export = format!("import:{}", image.name);
        Ok(Import { image: self.add_image(image)?, export })
    }

    pub(super) fn grow_import(&mut self, name: &str, size: u64) -> Result<Image, ApiError> {
        let image = self.image_mut(name)?;
        image.size = size;
        Ok(image.clone())
    }

    pub(super) fn complete_import(&mut self, name: &str) -> Result<Image, ApiError> {
        let image = self.image_mut(name)?;
        image.status = ImageStatus::Available;
        Ok(image.clone())
    }

    pub(super) fn edit_image(&mut self, name: &str, r: EditImage) -> Result<Image, ApiError> {
        let image = self.image_mut(name)?;
        image.name = r.name.unwrap_or(image.name.clone());
        image.description = r.description.unwrap_or(image.description.clone());
        image.os_type = r.os_type.or(image.os_type.clone()).filter(|text| !text.is_empty());
        image.min_disk = r.min_disk.unwrap_or(image.min_disk);
        image.min_memory = r.min_memory.unwrap_or(image.min_memory);
        image.protected = r.protected.unwrap_or(image.protected);
        Ok(image.clone())
    }

    pub(super) fn delete_image(&mut self, name: &str, force: bool) -> Result<(), ApiError> {
        let image = self.image(name)?;
        if image.protected {
            return Err(error(ErrorCode::Busy, format!("the image {name:?} is protected")));
        }
        if image.volumes > 0 && !force {
            return Err(error(ErrorCode::Busy, format!("the image {name:?} is that of {}", image.volumes)));
        }
        self.images.retain(|image| image.name != name);
        Ok(())
    }

    /// A volume that begins as an image.
    pub(super) fn volume_of_image(&mut self, image: &str, r: CreateVolume) -> Result<Volume, ApiError> {
        let found = self.image_mut(image)?;
        found.volumes += 1;
        let size = r.size.unwrap_or(found.size.max(found.min_disk));
        let name = r.name.clone();
        self.create_volume(CreateVolume { size: Some(size), image: None, ..r })?;
        self.set_image(&name, image);
        self.volume(&name)
    }
}

fn blank(
    name: String,
    size: u64,
    format: ImageFormat,
    fields: ImageFields,
    source: ImageSource,
    created: Timestamp,
) -> Image {
    let ImageFields { description, os_type, min_disk, min_memory, protected } = fields;
    Image {
        name,
        id: 7,
        status: ImageStatus::Available,
        size,
        mapped: size / 4,
        created,
        description,
        format,
        os_type,
        min_disk,
        min_memory,
        protected,
        source,
        pool: "main".into(),
        volumes: 0,
    }
}
