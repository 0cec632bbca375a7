//! What the kernel says of the driver's devices, in `/sys/block/nbdN`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::identity::{BackendId, DeviceIndex};

/// Bytes of a sector, which is what sysfs gives sizes in, whatever a device's blocks are.
const SECTOR: u64 = 512;

/// One device, as it was when it was looked at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Which one.
    pub index: DeviceIndex,
    /// Whether it is attached to something. Then the kernel shows the process that attached it, alive or not.
    pub attached: bool,
    /// The mark it carries; only devices attached over netlink can have one.
    pub backend: Option<String>,
    /// Bytes; 0 when it is not attached.
    pub size: u64,
    /// Whether it takes no writes.
    pub read_only: bool,
}

impl Device {
    /// The mark, if this program wrote it.
    pub fn backend_id(&self) -> Option<BackendId> {
        self.backend.as_deref().filter(|_| self.attached).and_then(BackendId::parse)
    }
}

/// The folder of block devices.
#[derive(Clone, Debug)]
pub struct Sysfs {
    block: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Sysfs {
        Sysfs::at("/sys/block")
    }
}

impl Sysfs {
    /// The folder at `block`, for tests.
    pub fn at(block: impl Into<PathBuf>) -> Sysfs {
        Sysfs { block: block.into() }
    }

    /// All the driver's devices, by index. None if the driver is not there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn devices(&self) -> io::Result<Vec<Device>> {
        let mut devices = Vec::new();
        for entry in fs::read_dir(&self.block)? {
            let name = entry?.file_name();
            if let Some(index) = name.to_str().and_then(DeviceIndex::from_name) {
                devices.extend(self.device(index)?);
            }
        }
        devices.sort_by_key(|device| device.index);
        Ok(devices)
    }

    /// One device, if the kernel has it.
    ///
    /// # Errors
    /// When what the kernel says of it cannot be read.
    pub fn device(&self, index: DeviceIndex) -> io::Result<Option<Device>> {
        let folder = self.block.join(index.name());
        // A device that goes away while it is looked at is not there.
        let Some(sectors) = read(&folder, "size")? else { return Ok(None) };
        let sectors: u64 = sectors.parse().map_err(|_| malformed(&folder, "size"))?;
        let size = sectors.checked_mul(SECTOR).ok_or_else(|| malformed(&folder, "size"))?;
        Ok(Some(Device {
            index,
            attached: read(&folder, "pid")?.is_some(),
            // Shown even for devices attached without one, as an empty line.
            backend: read(&folder, "backend")?.filter(|text| !text.is_empty()),
            size,
            read_only: read(&folder, "ro")?.is_some_and(|flag| flag != "0"),
        }))
    }
}

/// A file's line, or `None` where there is no such file.
fn read(folder: &Path, name: &str) -> io::Result<Option<String>> {
    match fs::read_to_string(folder.join(name)) {
        Ok(text) => Ok(Some(text.strip_suffix('\n').unwrap_or(&text).to_owned())),
        // The second is what reading an attribute gives whose device went away after it was opened.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(nix::errno::Errno::ENODEV as i32) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn malformed(folder: &Path, name: &str) -> io::Error {
    let what = format!("{} is not a number", folder.join(name).display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, device: &str, files: &[(&str, &str)]) {
        fs::create_dir_all(root.join(device)).expect("a folder");
        for (name, text) in files {
            fs::write(root.join(device).join(name), text).expect("a file");
        }
    }

    #[test]
    fn devices_are_read_as_the_kernel_shows_them() {
        let root = tempfile::tempdir().expect("a folder");
        let mark = "cairn:abababababababababababababababab:9:2";
        put(root.path(), "nbd0", &[("size", "0\n"), ("ro", "0\n")]);
        put(
            root.path(),
            "nbd10",
            &[("size", "2048\n"), ("ro", "1\n"), ("pid", "77\n"), ("backend", &format!("{mark}\n"))],
        );
        // Attached by nbd-client: without a mark.
        put(root.path(), "nbd2", &[("size", "8\n"), ("ro", "0\n"), ("pid", "5\n"), ("backend", "\n")]);
        put(root.path(), "sda", &[("size", "100\n")]);
        put(root.path(), "nbdx", &[("size", "100\n")]);
        let sysfs = Sysfs::at(root.path());
        let devices = sysfs.devices().expect("readable");
        let indices: Vec<u32> = devices.iter().map(|device| device.index.0).collect();
        assert_eq!(indices, [0, 2, 10]);
        let free =
            Device { index: DeviceIndex(0), attached: false, backend: None, size: 0, read_only: false };
        assert_eq!(devices[0], free);
        assert_eq!((devices[1].attached, devices[1].size), (true, 4096));
        assert_eq!(devices[1].backend_id(), None);
        assert_eq!((devices[2].size, devices[2].read_only), (1 << 20, true));
        assert_eq!(devices[2].backend_id(), BackendId::parse(mark));
        assert!(devices[2].backend_id().is_some());
        assert_eq!(sysfs.device(DeviceIndex(3)).expect("readable"), None);
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let root = tempfile::tempdir().expect("a folder");
        put(root.path(), "nbd0", &[("size", "many\n")]);
        put(root.path(), "nbd1", &[("size", "18446744073709551615\n")]);
        let sysfs = Sysfs::at(root.path());
        for index in [0, 1] {
            let error = sysfs.device(DeviceIndex(index)).expect_err("not a size");
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        assert!(sysfs.devices().is_err());
        assert!(Sysfs::at(root.path().join("nothing")).devices().is_err());
    }
}
