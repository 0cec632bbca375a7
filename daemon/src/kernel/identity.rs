//! What devices and what they show are called.

use std::fmt;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::str::FromStr;

/// The number of a device: 3 for `/dev/nbd3`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DeviceIndex(pub u32);

impl DeviceIndex {
    /// The device's name, as in `/sys/block`.
    pub fn name(self) -> String {
        format!("nbd{}", self.0)
    }

    /// The device's node.
    pub fn path(self) -> PathBuf {
        PathBuf::from(self.to_string())
    }

    /// The device of this name, if it is one of the driver's and not a partition of one.
    pub fn from_name(name: &str) -> Option<DeviceIndex> {
        let digits = name.strip_prefix("nbd")?;
        // `parse` would take a sign.
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let index = digits.parse().ok().filter(|_| plain)?;
        // One name a device: no zeroes in front.
        (DeviceIndex(index).name() == name).then_some(DeviceIndex(index))
    }
}

impl fmt::Display for DeviceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/dev/nbd{}", self.0)
    }
}

/// A text that names no device of the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotADevice(String);

impl fmt::Display for NotADevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is not a device of the kernel's nbd driver: write it as /dev/nbd0", self.0)
    }
}

impl std::error::Error for NotADevice {}

impl FromStr for DeviceIndex {
    type Err = NotADevice;

    /// `/dev/nbd3` or `nbd3`.
    fn from_str(text: &str) -> Result<DeviceIndex, NotADevice> {
        let name = text.strip_prefix("/dev/").unwrap_or(text);
        DeviceIndex::from_name(name).ok_or_else(|| NotADevice(text.to_owned()))
    }
}

/// What a device shows: one version of one pool, whatever its name is. A volume keeps its version through renames,
/// resizes and rollbacks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeKey {
    /// The pool's id.
    pub pool: [u8; 16],
    /// The version's id: a volume's head or a snapshot.
    pub version: u32,
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.pool {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ":{}", self.version)
    }
}

/// The mark the kernel keeps on a device and shows as `/sys/block/nbdN/backend`: by it a daemon finds, after a restart,
/// the devices that are its own, and all it needs to serve them again.
///
/// As text it is `cairn:POOL:VERSION:CONNECTIONS`, with the pool's id in hexadecimal and the others in decimal numbers.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackendId {
    /// What the device shows.
    pub volume: VolumeKey,
    /// How many connections it was attached with. The kernel has no other place where this can be read.
    pub connections: NonZeroU8,
}

impl BackendId {
    const SCHEME: &'static str = "cairn";

    /// The mark in this text, or `None` if another program wrote it.
    pub fn parse(text: &str) -> Option<BackendId> {
        let mut parts = text.split(':');
        let (scheme, pool) = (parts.next()?, parts.next()?);
        let (version, connections) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        if scheme != Self::SCHEME || parts.next().is_some() {
            return None;
        }
        let id = BackendId { volume: VolumeKey { pool: pool_id(pool)?, version }, connections };
        // Whatever is not written exactly as it would be here is someone else's.
        (id.to_string() == text).then_some(id)
    }
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", Self::SCHEME, self.volume, self.connections)
    }
}

fn pool_id(hex: &str) -> Option<[u8; 16]> {
    let mut id = [0; 16];
    if hex.len() != 2 * id.len() || !hex.is_ascii() {
        return None;
    }
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_written_in_one_way() {
        for (text, index) in [("/dev/nbd0", 0), ("nbd7", 7), ("/dev/nbd32767", 32767)] {
            assert_eq!(text.parse(), Ok(DeviceIndex(index)));
        }
        for text in
            ["", "nbd", "/dev/nbd", "nbd01", "nbd+1", "nbd0p1", "/dev/sda", "nbd4294967296", "/dev/nbd-1"]
        {
            assert!(text.parse::<DeviceIndex>().is_err(), "{text}");
        }
        assert_eq!(DeviceIndex(12).to_string(), "/dev/nbd12");
    }

    #[test]
    fn marks_are_read_as_they_were_written_and_no_others() {
        let pool = std::array::from_fn(|i| (i * 17) as u8);
        let connections = NonZeroU8::new(4).expect("not zero");
        let id = BackendId { volume: VolumeKey { pool, version: 4_000_000_000 }, connections };
        let text = "cairn:00112233445566778899aabbccddeeff:4000000000:4";
        assert_eq!(id.to_string(), text);
        assert_eq!(BackendId::parse(text), Some(id));
        for other in [
            "",
            "cairn",
            "cairn:00112233445566778899aabbccddeeff:1",
            "cairn:00112233445566778899aabbccddeeff:1:0",
            "cairn:00112233445566778899aabbccddeeff:+1:4",
            "cairn:00112233445566778899aabbccddeeff:01:4",
            "cairn:00112233445566778899AABBCCDDEEFF:1:4",
            "cairn:00112233445566778899aabbccddee:1:4",
            "cairn:00112233445566778899aabbccddeeff:1:4:5",
            "cairn:00112233445566778899aabbccddeeff:1:4\n",
            "cairn:ää112233445566778899aabbccddee:1:4",
            "rbd:00112233445566778899aabbccddeeff:1:4",
        ] {
            assert_eq!(BackendId::parse(other), None, "{other}");
        }
    }
}
