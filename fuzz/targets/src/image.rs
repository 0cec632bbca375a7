//! Image files of others: told apart, judged, and read where this process itself does it.

use std::cell::RefCell;
use std::fs::File;
use std::io::{Cursor, Seek as _, Write as _};

use cairn_api::image::ImageFormat;
use cairn_image::{Input, Opened, Options, Reading, Watch, open};

/// The largest disk that is taken: room enough for a header to be wrong about it, and quickly read.
const MOST: u64 = 64 << 20;
/// What an image can be called.
const FORMATS: [Option<ImageFormat>; 7] = [
    None,
    Some(ImageFormat::Raw),
    Some(ImageFormat::RawTarGz),
    Some(ImageFormat::Qcow2),
    Some(ImageFormat::Vmdk),
    Some(ImageFormat::Vhd),
    Some(ImageFormat::Vhdx),
];

thread_local! {
    static FILE: RefCell<File> = RefCell::new(tempfile::tempfile().expect("a file"));
}

/// A file that holds `bytes`.
fn file(bytes: &[u8]) -> File {
    FILE.with_borrow_mut(|file| {
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(bytes))
            .expect("it is written");
        file.try_clone().expect("one more descriptor")
    })
}

/// Whether this process reads such an image. QEMU reads the others, apart.
fn is_read_here(opened: &Opened, bytes: &[u8]) -> bool {
    // Subclusters and other compressions among the incompatible features.
    let needs_qemu = |head: &[u8]| head.get(79).is_some_and(|features| features & 0x18 != 0);
    match opened.format {
        ImageFormat::Raw | ImageFormat::RawTarGz => true,
        ImageFormat::Qcow2 => !needs_qemu(bytes),
        ImageFormat::Vmdk | ImageFormat::Vhd | ImageFormat::Vhdx => false,
    }
}

/// An image: what it is called and whether it comes as a stream, then its bytes.
pub fn files(input: &[u8]) {
    let Some((choice, bytes)) = input.split_first() else { return };
    let options = Options { format: FORMATS[usize::from(choice >> 1) % FORMATS.len()], max_size: MOST };
    let from = match choice & 1 {
        0 => Input::File(file(bytes)),
        _ => Input::Stream(Box::new(Cursor::new(bytes.to_vec()))),
    };
    let Ok(opened) = open(from, &options) else { return };
    if !is_read_here(&opened, bytes) {
        return;
    }
    let watch = Watch::default();
    let Ok((mut reading, size)) = Reading::start(opened.source, MOST, &watch) else { return };
    assert!(size.is_none_or(|size| size > 0 && size <= MOST));
    let mut at = 0;
    while let Ok(Some(piece)) = reading.next(&watch) {
        assert!(!piece.data.is_empty() && piece.offset >= at);
        at = piece.offset + piece.data.len() as u64;
        assert!(at <= size.unwrap_or(MOST));
        reading.recycle(piece.data);
    }
}
