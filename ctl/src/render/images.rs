//! Images for people.

use std::path::Path;

use cairn_api::Size;
use cairn_api::image::{Image, ImageFormat, ImageList, ImageStatus};
use comfy_table::Cell;

use super::{Look, Tone, count, fields, left, more, or_dash, right, table, tag_lines, tags};

fn tone(status: ImageStatus) -> Tone {
    match status {
        ImageStatus::Importing => Tone::Active,
        ImageStatus::Available => Tone::Good,
    }
}

/// Some images as a table, all or `filtered`. What says the same of all of them is left out.
pub(crate) fn list(list: &ImageList, filtered: bool, look: &Look) -> String {
    let images = &*list.images;
    if images.is_empty() && filtered {
        return "No image is like that.\n".to_owned();
    }
    if images.is_empty() {
        return "There are no images. Import one: cairn image import FILE NAME\n".to_owned();
    }
    let typed = images.iter().any(|image| image.os_type.is_some());
    let protected = images.iter().any(|image| image.protected);
    let tagged = images.iter().any(|image| !image.tags.is_empty());
    let columns = [
        (true, left("NAME")),
        (true, right("SIZE")),
        (true, right("USED")),
        (true, left("STATUS")),
        (true, left("FORMAT").spare(2)),
        (typed, left("OS").spare(1)),
        (protected, left("PROTECTED").spare(3)),
        (true, right("VOLUMES")),
        (true, left("SOURCE").spare(4)),
        (true, left("CREATED").spare(5)),
        (tagged, left("TAGS").spare(6)),
    ];
    let rows = images.iter().map(|image| {
        let cells = [
            Cell::new(&image.name),
            Cell::new(Size(image.size)),
            Cell::new(Size(image.mapped)),
            tone(image.status).cell(Cell::new(image.status.as_str())),
            Cell::new(image.format),
            Cell::new(image.os_type.as_deref().unwrap_or("-")),
            Cell::new(if image.protected { "yes" } else { "-" }),
            Cell::new(image.volumes),
            Cell::new(or_dash(&image.source.to_string())),
            Cell::new(look.ago(image.created)),
            Cell::new(tags(&image.tags)),
        ];
        cells.into_iter().zip(&columns).filter(|(_, (shown, _))| *shown).map(|(cell, _)| cell).collect()
    });
    let rows = rows.collect();
    let columns: Vec<_> = columns.into_iter().filter(|(shown, _)| *shown).map(|(_, column)| column).collect();
    table(&columns, rows, look) + &more(list.next.as_deref())
}

/// One image, a field a line.
pub(crate) fn show(image: &Image, look: &Look) -> String {
    let mut lines = vec![
        ("name", image.name.clone()),
        ("id", image.id.to_string()),
        ("status", look.paint(tone(image.status), image.status.as_str())),
        ("size", format!("{} ({} bytes)", Size(image.size), image.size)),
        ("used", Size(image.mapped).to_string()),
        ("format", image.format.to_string()),
        ("source", image.source.to_string()),
        ("pool", image.pool.clone()),
        ("volumes", image.volumes.to_string()),
        ("protected", if image.protected { "yes" } else { "no" }.to_owned()),
        ("created", look.when(image.created)),
    ];
    if let Some(os_type) = &image.os_type {
        lines.push(("os type", os_type.clone()));
    }
    for (name, size) in [("least disk", image.min_disk), ("least memory", image.min_memory)] {
        if size > 0 {
            lines.push((name, Size(size).to_string()));
        }
    }
    if !image.description.is_empty() {
        lines.push(("description", image.description.clone()));
    }
    lines.extend(tag_lines(&image.tags));
    fields(&lines, look)
}

/// After importing one.
pub(crate) fn imported(image: &Image) -> String {
    let Image { name, size, format, source, .. } = image;
    format!("imported {source} as image {name} ({}, {format})\n", Size(*size))
}

/// After making one of a volume.
pub(crate) fn created(image: &Image) -> String {
    format!("created image {} ({}) from {}\n", image.name, Size(image.size), image.source)
}

/// After editing the one that was called `before`.
pub(crate) fn edited(image: &Image, before: &str) -> String {
    if image.name != before {
        return format!("image {before} is now called {}\n", image.name);
    }
    match image.volumes {
        0 => format!("changed image {before}\n"),
        1 => format!("changed image {before}; its 1 volume stays as it is\n"),
        n => format!("changed image {before}; its {} stay as they are\n", count(n, "volume")),
    }
}

/// After exporting something.
pub(crate) fn exported(what: &str, file: &Path, format: ImageFormat, size: u64) -> String {
    format!("exported {what} to {} ({}, {format})\n", file.display(), Size(size))
}

#[cfg(test)]
mod tests {
    use cairn_api::image::ImageSource;
    use cairn_api::tags::Tags;

    use super::super::testing::{at, look, narrow};
    use super::*;

    fn debian() -> Image {
        Image {
            name: "debian-13".into(),
            id: 4,
            status: ImageStatus::Available,
            size: 10 << 30,
            mapped: 1 << 30,
            created: at("2026-01-01T23:55:00Z"),
            description: "the cloud image".into(),
            format: ImageFormat::Qcow2,
            os_type: Some("linux".into()),
            min_disk: 20 << 30,
            min_memory: 0,
            protected: true,
            source: ImageSource::File { name: "debian.qcow2".into() },
            pool: "main".into(),
            volumes: 2,
            tags: Tags::new(),
        }
    }

    fn plain() -> Image {
        Image {
            name: "web".into(),
            description: String::new(),
            format: ImageFormat::Raw,
            os_type: None,
            min_disk: 0,
            protected: false,
            source: ImageSource::Volume { volume: "web".into(), snapshot: Some("s".into()) },
            volumes: 0,
            ..debian()
        }
    }

    fn listed(images: &[Image], look: &Look) -> String {
        list(&ImageList { images: images.to_vec(), next: None }, false, look)
    }

    #[test]
    fn tags_are_shown_where_there_are_some() {
        let tagged = Image { tags: Tags::from([("release".into(), "13".into())]), ..debian() };
        let one = ImageList { images: vec![tagged.clone()], next: Some("debian-13".into()) };
        let text = list(&one, true, &look());
        assert!(text.contains("TAGS") && text.contains("release=13"), "{text}");
        assert!(text.ends_with("There are more: --after debian-13\n"), "{text}");
        assert!(show(&tagged, &look()).contains("release=13"));
        assert!(!listed(&[plain()], &look()).contains("TAGS"));
    }

    #[test]
    fn a_list_leaves_out_what_nobody_has() {
        assert_eq!(
            listed(&[plain()], &narrow()),
            "\
NAME      SIZE     USED  STATUS     FORMAT  VOLUMES  SOURCE  CREATED
web   10.0 GiB  1.0 GiB  available  raw           0  web@s   5 minutes ago
"
        );
        let both = listed(&[debian(), plain()], &look());
        assert!(both.contains("linux") && both.contains("PROTECTED"), "{both}");
        assert!(listed(&[], &look()).contains("cairn image import"));
        let none = list(&ImageList { images: Vec::new(), next: None }, true, &look());
        assert_eq!(none, "No image is like that.\n");
    }

    #[test]
    fn one_is_its_fields() {
        let shown = show(&debian(), &look());
        for line in
            ["name         debian-13", "os type      linux", "least disk   20.0 GiB", "protected    yes"]
        {
            assert!(shown.lines().any(|l| l == line), "no {line:?} in\n{shown}");
        }
        assert!(!shown.contains("least memory"), "{shown}");
    }

    #[test]
    fn what_was_done_is_said() {
        assert_eq!(imported(&debian()), "imported debian.qcow2 as image debian-13 (10.0 GiB, qcow2)\n");
        assert_eq!(created(&plain()), "created image web (10.0 GiB) from web@s\n");
        assert_eq!(edited(&plain(), "old"), "image old is now called web\n");
        assert_eq!(
            edited(&debian(), "debian-13"),
            "changed image debian-13; its 2 volumes stay as they are\n"
        );
        let exported = exported("web", Path::new("w.img"), ImageFormat::Raw, 1 << 20);
        assert_eq!(exported, "exported web to w.img (1.0 MiB, raw)\n");
    }
}
