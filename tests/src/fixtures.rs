//! Things that tests need on disk: file system images, sparse copies, damaged bytes, small file systems.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::data::Rng;
use crate::program::run;

/// Makes an ext4 image of `mib` MiB with files in it: many small ones, a large one, a sparse one. No mount is needed.
#[track_caller]
pub fn ext4_image(folder: &Path, mib: u64, seed: u64) -> PathBuf {
    let mut rng = Rng::new(seed);
    let tree = folder.join("tree");
    for directory in 0..8 {
        let directory = tree.join(format!("d{directory}"));
        fs::create_dir_all(&directory).expect("a folder can be made");
        for file in 0..50 {
            let mut bytes = vec![0; rng.below(24 << 10) as usize];
            rng.fill(&mut bytes);
            fs::write(directory.join(format!("f{file}")), bytes).expect("a file can be written");
        }
    }
    let large = File::create(tree.join("large")).expect("a file can be made");
    let mut piece = vec![0; 1 << 20];
    for index in 0..mib / 4 {
        rng.fill(&mut piece);
        large.write_all_at(&piece, index << 20).expect("a file can be written");
    }
    let sparse = File::create(tree.join("sparse")).expect("a file can be made");
    sparse.write_all_at(&piece, mib << 20).expect("a file can be written");
    let image = folder.join("image.ext4");
    let size = format!("{mib}M");
    run("mke2fs", &["-q", "-t", "ext4", "-d", &text(&tree), &text(&image), &size]).ok();
    fs::remove_dir_all(&tree).expect("the tree can be removed");
    image
}

/// A path as the text that command lines take.
pub fn text(path: &Path) -> String {
    path.to_str().expect("test paths are UTF-8").to_owned()
}

/// Panics unless two files hold the same bytes.
#[track_caller]
pub fn assert_same_bytes(one: &Path, other: &Path) {
    run("cmp", &[one, other]).ok();
}

/// Copies a file, holes staying holes.
#[track_caller]
pub fn copy_sparse(from: &Path, to: &Path) {
    run("cp", &["--sparse=always", "--reflink=auto", &text(from), &text(to)]).ok();
}

/// The ranges of a file that hold data.
pub fn data_ranges(path: &Path) -> io::Result<Vec<std::ops::Range<u64>>> {
    let file = File::open(path)?;
    let end = i64::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut ranges = Vec::new();
    let mut at = 0;
    while at < end {
        let start = match lseek(&file, at, Whence::SeekData) {
            Ok(start) => start,
            // The rest is a hole.
            Err(Errno::ENXIO) => break,
            Err(e) => return Err(e.into()),
        };
        at = lseek(&file, start, Whence::SeekHole)?;
        ranges.push(start.cast_unsigned()..at.cast_unsigned());
    }
    Ok(ranges)
}

/// Changes one byte of a file.
pub fn flip_byte(path: &Path, offset: u64, mask: u8) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    file.write_all_at(&[byte[0] ^ mask], offset)
}

/// Whether a file has only zeroes, for picking bytes that mean something.
pub fn is_zero(path: &Path, range: std::ops::Range<u64>) -> io::Result<bool> {
    let file = File::open(path)?;
    let mut bytes = vec![0; (range.end - range.start) as usize];
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
}

/// A hash of a whole file, to see that a refused program left it alone.
pub fn checksum(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buf = vec![0; 1 << 20];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    loop {
        let n = file.read(&mut buf)?;
        if n == 0 {
            return Ok(hash);
        }
        for byte in &buf[..n] {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// A small file system of its own, unmounted when dropped.
#[derive(Debug)]
pub struct SmallFs {
    mount: PathBuf,
}

impl SmallFs {
    /// Mounts ext4 on a loop device, or a tmpfs where there are none; `None`, said loudly, where this process may not
    /// mount at all.
    pub fn new(folder: &Path, mib: u64) -> Option<SmallFs> {
        let image = folder.join("small.ext4");
        let mount = folder.join("small");
        fs::create_dir_all(&mount).expect("a folder can be made");
        let (image, at) = (text(&image), text(&mount));
        run("mke2fs", &["-q", "-t", "ext4", "-m", "0", &image, &format!("{mib}M")]).ok();
        let mut why = run("mount", &["-o", "loop", &image, &at]);
        if !why.status.success() {
            why = run("mount", &["-t", "tmpfs", "-o", &format!("size={mib}m"), "cairn-tests", &at]);
        }
        if why.status.success() {
            return Some(SmallFs { mount });
        }
        println!(
            "!!! SKIPPED: this process may not mount a small file system, so a full one is not tested: {why}"
        );
        None
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

impl Drop for SmallFs {
    fn drop(&mut self) {
        // Lazily, so that a daemon that a failing test left behind doesn't keep the mount for ever.
        run("umount", &["--lazy", &text(&self.mount)]);
    }
}
