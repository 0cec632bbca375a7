//! The driver's netlink messages, to and from bytes: `include/uapi/linux/nbd-netlink.h`.
//!
//! Frames, headers, padding and the look-up of the family are those of `netlink-packet-core` and
//! `netlink-packet-generic`; here are only the driver's own commands and attributes.

use std::mem::size_of;
use std::os::fd::RawFd;

use netlink_packet_core::{
    DecodeError, Emitable, Nla, NlasIterator, ParseableParametrized, emit_u32, emit_u64, parse_u8, parse_u32,
};
use netlink_packet_generic::{GenlFamily, GenlHeader};

use super::identity::DeviceIndex;

/// The family's name, by which its number is looked up.
pub(super) const FAMILY: &str = "nbd";
/// The family's version, of which there has been only this one.
const VERSION: u8 = 1;

/// What the driver can be asked to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Command {
    /// Attach a device. Answered with its index.
    Connect = 1,
    /// Detach a device.
    Disconnect = 2,
    /// Give an attached device new sockets or another size.
    Reconfigure = 3,
    /// List devices.
    Status = 5,
}

const ATTR_INDEX: u16 = 1;
const ATTR_SIZE_BYTES: u16 = 2;
const ATTR_BLOCK_SIZE_BYTES: u16 = 3;
const ATTR_TIMEOUT: u16 = 4;
const ATTR_SERVER_FLAGS: u16 = 5;
const ATTR_SOCKETS: u16 = 7;
const ATTR_DEAD_CONN_TIMEOUT: u16 = 8;
const ATTR_DEVICE_LIST: u16 = 9;
const ATTR_BACKEND_IDENTIFIER: u16 = 10;

/// One entry in the value of [`ATTR_SOCKETS`], and the attribute within it.
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;
/// One entry in the value of [`ATTR_DEVICE_LIST`], and the attributes within it.
const DEVICE_ITEM: u16 = 1;
const DEVICE_INDEX: u16 = 1;
const DEVICE_CONNECTED: u16 = 2;

/// An attribute of a request. Numbers go in the machine's byte order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Attribute {
    /// Which device.
    Index(DeviceIndex),
    /// Its size.
    SizeBytes(u64),
    /// Its smallest unit of addressing.
    BlockSizeBytes(u64),
    /// Seconds after which a request that is not answered is taken for lost.
    Timeout(u64),
    /// Transmission flags, as negotiation has them.
    ServerFlags(u64),
    /// Connected sockets, as descriptors of the process that sends this.
    Sockets(Vec<RawFd>),
    /// Seconds a device waits for new sockets once all it has are dead.
    DeadConnTimeout(u64),
    /// The mark that the device keeps.
    BackendIdentifier(String),
}

impl Nla for Attribute {
    fn value_len(&self) -> usize {
        match self {
            Attribute::Index(_) => size_of::<u32>(),
            Attribute::SizeBytes(_)
            | Attribute::BlockSizeBytes(_)
            | Attribute::Timeout(_)
            | Attribute::ServerFlags(_)
            | Attribute::DeadConnTimeout(_) => size_of::<u64>(),
            Attribute::Sockets(sockets) => sockets.iter().map(|fd| SocketItem(*fd).buffer_len()).sum(),
            // With the byte that ends a string in C.
            Attribute::BackendIdentifier(text) => text.len() + 1,
        }
    }

    fn kind(&self) -> u16 {
        match self {
            Attribute::Index(_) => ATTR_INDEX,
            Attribute::SizeBytes(_) => ATTR_SIZE_BYTES,
            Attribute::BlockSizeBytes(_) => ATTR_BLOCK_SIZE_BYTES,
            Attribute::Timeout(_) => ATTR_TIMEOUT,
            Attribute::ServerFlags(_) => ATTR_SERVER_FLAGS,
            Attribute::Sockets(_) => ATTR_SOCKETS,
            Attribute::DeadConnTimeout(_) => ATTR_DEAD_CONN_TIMEOUT,
            Attribute::BackendIdentifier(_) => ATTR_BACKEND_IDENTIFIER,
        }
    }

    fn emit_value(&self, buffer: &mut [u8]) {
        match self {
            Attribute::Index(index) => put_u32(buffer, index.0),
            Attribute::SizeBytes(value)
            | Attribute::BlockSizeBytes(value)
            | Attribute::Timeout(value)
            | Attribute::ServerFlags(value)
            | Attribute::DeadConnTimeout(value) => put_u64(buffer, *value),
            Attribute::Sockets(sockets) => {
                let items: Vec<SocketItem> = sockets.iter().copied().map(SocketItem).collect();
                items.as_slice().emit(buffer);
            }
            Attribute::BackendIdentifier(text) => {
                buffer[..text.len()].copy_from_slice(text.as_bytes());
                buffer[text.len()] = 0;
            }
        }
    }
}

/// An entry of the list of sockets: an attribute with one attribute in it.
struct SocketItem(RawFd);
/// The socket itself.
struct SocketFd(RawFd);

impl Nla for SocketItem {
    fn value_len(&self) -> usize {
        SocketFd(self.0).buffer_len()
    }
    fn kind(&self) -> u16 {
        SOCK_ITEM
    }
    fn emit_value(&self, buffer: &mut [u8]) {
        SocketFd(self.0).emit(buffer);
    }
}

impl Nla for SocketFd {
    fn value_len(&self) -> usize {
        size_of::<u32>()
    }
    fn kind(&self) -> u16 {
        SOCK_FD
    }
    fn emit_value(&self, buffer: &mut [u8]) {
        // Descriptors are not negative; the driver reads the number as it was.
        put_u32(buffer, self.0.cast_unsigned());
    }
}

fn put_u32(buffer: &mut [u8], value: u32) {
    emit_u32(buffer, value).expect("the buffer was made with room for the value");
}

fn put_u64(buffer: &mut [u8], value: u64) {
    emit_u64(buffer, value).expect("the buffer was made with room for the value");
}

/// A message to the driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    pub(super) attributes: Vec<Attribute>,
}

impl GenlFamily for Request {
    fn family_name() -> &'static str {
        FAMILY
    }
    fn command(&self) -> u8 {
        self.command as u8
    }
    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Request {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }
    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

/// What the driver tells of a device when it is asked for its status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceStatus {
    /// Which one.
    pub index: DeviceIndex,
    /// Whether it is configured. A device that is only being opened passes for one at that moment.
    pub connected: bool,
}

/// A message from the driver, whatever it answers.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Reply {
    /// The device that was attached.
    pub(super) index: Option<DeviceIndex>,
    /// The devices asked about.
    pub(super) devices: Vec<DeviceStatus>,
}

impl ParseableParametrized<[u8], GenlHeader> for Reply {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Reply, DecodeError> {
        let mut reply = Reply::default();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            match attribute.kind() {
                ATTR_INDEX => reply.index = Some(DeviceIndex(parse_u32(attribute.value())?)),
                ATTR_DEVICE_LIST => reply.devices = device_list(attribute.value())?,
                // Newer drivers may tell more.
                _ => {}
            }
        }
        Ok(reply)
    }
}

fn device_list(buffer: &[u8]) -> Result<Vec<DeviceStatus>, DecodeError> {
    let mut devices = Vec::new();
    for item in NlasIterator::new(buffer) {
        let item = item?;
        if item.kind() != DEVICE_ITEM {
            continue;
        }
        let (mut index, mut connected) = (None, false);
        for attribute in NlasIterator::new(item.value()) {
            let attribute = attribute?;
            match attribute.kind() {
                DEVICE_INDEX => index = Some(DeviceIndex(parse_u32(attribute.value())?)),
                DEVICE_CONNECTED => connected = parse_u8(attribute.value())? != 0,
                _ => {}
            }
        }
        let index = index.ok_or_else(|| DecodeError::from("a device without an index"))?;
        devices.push(DeviceStatus { index, connected });
    }
    Ok(devices)
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
    use netlink_packet_generic::GenlMessage;

    use super::*;

    fn bytes(attributes: Vec<Attribute>) -> Vec<u8> {
        let request = Request { command: Command::Connect, attributes };
        let mut buffer = vec![0xee; request.buffer_len()];
        request.emit(&mut buffer);
        buffer
    }

    #[test]
    fn numbers_are_attributes_of_four_or_eight_bytes() {
        assert_eq!(bytes(vec![Attribute::Index(DeviceIndex(3))]), [8, 0, 1, 0, 3, 0, 0, 0]);
        for (attribute, kind) in [
            (Attribute::SizeBytes as fn(u64) -> Attribute, 2),
            (Attribute::BlockSizeBytes, 3),
            (Attribute::Timeout, 4),
            (Attribute::ServerFlags, 5),
            (Attribute::DeadConnTimeout, 8),
        ] {
            assert_eq!(
                bytes(vec![attribute(0x0102_0304_0506_0708)]),
                [12, 0, kind, 0, 8, 7, 6, 5, 4, 3, 2, 1]
            );
        }
    }

    #[test]
    fn sockets_are_a_list_of_items_with_a_descriptor_each() {
        assert_eq!(
            bytes(vec![Attribute::Sockets(vec![17, 258])]),
            [
                28, 0, 7, 0, // the list: 4 + 2 * 12
                12, 0, 1, 0, // an item
                8, 0, 1, 0, 17, 0, 0, 0, // its descriptor
                12, 0, 1, 0, //
                8, 0, 1, 0, 2, 1, 0, 0,
            ]
        );
    }

    #[test]
    fn the_mark_ends_in_a_zero_and_is_padded() {
        let mark = |text: &str| bytes(vec![Attribute::BackendIdentifier(text.to_owned())]);
        assert_eq!(mark("cairn:ab"), *b"\x0d\0\x0a\0cairn:ab\0\0\0\0");
        assert_eq!(mark("abc"), *b"\x08\0\x0a\0abc\0");
    }

    #[test]
    fn a_whole_message_is_as_the_kernel_expects_it() {
        let request = Request {
            command: Command::Reconfigure,
            attributes: vec![
                Attribute::Index(DeviceIndex(1)),
                Attribute::BackendIdentifier("c".to_owned()),
                Attribute::Sockets(vec![9]),
            ],
        };
        let mut message = GenlMessage::from_payload(request);
        message.set_resolved_family_id(0x1f);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        message.header.sequence_number = 7;
        message.finalize();
        let mut buffer = vec![0; message.buffer_len()];
        message.serialize(&mut buffer);
        assert_eq!(
            buffer,
            [
                52, 0, 0, 0, 0x1f, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0, // nlmsghdr
                3, 1, 0, 0, // genlmsghdr
                8, 0, 1, 0, 1, 0, 0, 0, // index
                6, 0, 10, 0, b'c', 0, 0, 0, // mark, padded
                16, 0, 7, 0, 12, 0, 1, 0, 8, 0, 1, 0, 9, 0, 0, 0, // sockets
            ]
        );
    }

    fn parse(buffer: &[u8]) -> Result<Reply, DecodeError> {
        Reply::parse_with_param(buffer, GenlHeader { cmd: 1, version: 1 })
    }

    #[test]
    fn answers_are_read() {
        let attached = parse(&[8, 0, 1, 0, 5, 0, 0, 0]).expect("well formed");
        assert_eq!(attached, Reply { index: Some(DeviceIndex(5)), devices: Vec::new() });
        let status = parse(&[
            44, 0, 9, 0, // the list
            20, 0, 1, 0, 8, 0, 1, 0, 0, 0, 0, 0, 5, 0, 2, 0, 1, 0, 0, 0, // device 0, connected
            20, 0, 1, 0, 8, 0, 1, 0, 4, 0, 0, 0, 5, 0, 2, 0, 0, 0, 0, 0, // device 4, not
            8, 0, 99, 0, 1, 2, 3, 4, // something newer
        ]);
        let devices = [(0, true), (4, false)]
            .map(|(index, connected)| DeviceStatus { index: DeviceIndex(index), connected })
            .to_vec();
        assert_eq!(status.expect("well formed"), Reply { index: None, devices });
        assert_eq!(parse(&[]).expect("an empty answer"), Reply::default());
    }

    #[test]
    fn answers_that_are_cut_short_are_errors() {
        for bad in [
            &[8, 0, 1, 0, 5, 0][..],                             // longer than the message
            &[6, 0, 1, 0, 5, 0, 0, 0],                           // an index of two bytes
            &[2, 0, 1, 0],                                       // shorter than its own header
            &[12, 0, 9, 0, 16, 0, 1, 0, 8, 0, 1, 0],             // an item longer than the list
            &[16, 0, 9, 0, 12, 0, 1, 0, 5, 0, 2, 0, 1, 0, 0, 0], // a device without an index
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_and_an_acknowledgement_are_told_apart() {
        let frame = |code: i32| {
            let mut bytes = vec![36, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend_from_slice(&code.to_ne_bytes());
            bytes.extend_from_slice(&[0; 16]);
            NetlinkMessage::<GenlMessage<Reply>>::deserialize(&bytes).expect("well formed").payload
        };
        let NetlinkPayload::Error(ack) = frame(0) else { panic!("an acknowledgement") };
        assert_eq!(ack.code, None);
        let NetlinkPayload::Error(error) = frame(-16) else { panic!("an error") };
        assert_eq!(error.to_io().raw_os_error(), Some(16));
    }
}
