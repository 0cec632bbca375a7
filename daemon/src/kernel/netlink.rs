//! Talking to the driver: what it can be asked ([`Driver`]), and asking it ([`Netlink`]).

use std::fmt::Debug;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use netlink_packet_core::{
    Emitable, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, ParseableParametrized,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, connect, recv, send, socket,
};

use super::error::{KernelError, KernelErrorKind};
use super::identity::{BackendId, DeviceIndex};
use super::message::{Attribute, Command, DeviceStatus, FAMILY, Reply, Request};

/// Room for one answer. The longest lists every device in attributes whose lengths have 16 bits.
const ANSWER_BYTES: usize = 128 << 10;
/// The number by which an answer is known as that to our request, of which there is one a socket.
const SEQUENCE: u32 = 1;

/// How a device is to be attached.
#[derive(Debug)]
pub struct Connect<'a> {
    /// Which device; without one the first that is free, or a new one.
    pub index: Option<DeviceIndex>,
    /// The mark the device keeps.
    pub backend: BackendId,
    /// Bytes.
    pub size: u64,
    /// The smallest unit of addressing, in bytes.
    pub block_size: u32,
    /// Transmission flags.
    pub flags: u16,
    /// When a request without an answer is taken for lost; see the [module](super) for what then happens.
    pub request_timeout: Option<Duration>,
    /// How long the device waits for new sockets once all are dead, before it fails requests.
    pub dead_connection_timeout: Duration,
    /// The driver's ends of the connections.
    pub sockets: &'a [BorrowedFd<'a>],
}

/// What is to be different about an attached device. The two never go in one message: see the [module](super).
#[derive(Debug)]
pub enum Reconfigure<'a> {
    /// Sockets to take the places of dead ones. Those for which there is no dead one are closed.
    Sockets(&'a [BorrowedFd<'a>]),
    /// Another size, in bytes.
    Size(u64),
}

/// The kernel's nbd driver. Calls block, some until requests under way have been answered.
pub trait Driver: Send + Sync {
    /// Attaches a device and says which.
    ///
    /// # Errors
    /// Why the driver did not.
    fn connect(&self, connect: &Connect<'_>) -> Result<DeviceIndex, KernelError>;

    /// Changes a device that carries the mark `backend`.
    ///
    /// # Errors
    /// Why the driver did not.
    fn reconfigure(
        &self,
        index: DeviceIndex,
        backend: &BackendId,
        change: &Reconfigure<'_>,
    ) -> Result<(), KernelError>;

    /// Detaches a device, whatever uses it. One that is not attached stays so.
    ///
    /// # Errors
    /// Why the driver did not.
    fn disconnect(&self, index: DeviceIndex) -> Result<(), KernelError>;

    /// One device, or all there are.
    ///
    /// # Errors
    /// Why the driver does not say.
    fn status(&self, index: Option<DeviceIndex>) -> Result<Vec<DeviceStatus>, KernelError>;
}

/// The driver of the running kernel.
///
/// Every call has a socket of its own and looks the family's number up: calls are rare, the module may have been
/// reloaded since the last, and no answer to an earlier question can be taken for that to a later one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Netlink;

impl Driver for Netlink {
    fn connect(&self, connect: &Connect<'_>) -> Result<DeviceIndex, KernelError> {
        let answer = ask(connect_request(connect)).map_err(|failure| failure.explain(connect.index))?;
        answer.iter().find_map(|reply| reply.index).or(connect.index).ok_or_else(|| {
            KernelError::new(KernelErrorKind::Failed, "the kernel attached a device and does not say which")
        })
    }

    fn reconfigure(
        &self,
        index: DeviceIndex,
        backend: &BackendId,
        change: &Reconfigure<'_>,
    ) -> Result<(), KernelError> {
        ask(reconfigure_request(index, backend, change)).map_err(|failure| failure.explain(Some(index)))?;
        Ok(())
    }

    fn disconnect(&self, index: DeviceIndex) -> Result<(), KernelError> {
        let request = Request { command: Command::Disconnect, attributes: vec![Attribute::Index(index)] };
        ask(request).map_err(|failure| failure.explain(Some(index)))?;
        Ok(())
    }

    fn status(&self, index: Option<DeviceIndex>) -> Result<Vec<DeviceStatus>, KernelError> {
        let attributes = index.map(Attribute::Index).into_iter().collect();
        let answer = ask(Request { command: Command::Status, attributes });
        let answer = answer.map_err(|failure| failure.explain(index))?;
        Ok(answer.into_iter().flat_map(|reply| reply.devices).collect())
    }
}

fn connect_request(connect: &Connect<'_>) -> Request {
    let mut attributes: Vec<Attribute> = connect.index.map(Attribute::Index).into_iter().collect();
    attributes.extend([
        Attribute::SizeBytes(connect.size),
        Attribute::BlockSizeBytes(connect.block_size.into()),
        Attribute::ServerFlags(connect.flags.into()),
    ]);
    // To the driver 0 is no timeout, so what is shorter than a second becomes one.
    attributes.extend(connect.request_timeout.map(|timeout| Attribute::Timeout(timeout.as_secs().max(1))));
    attributes.extend([
        Attribute::DeadConnTimeout(connect.dead_connection_timeout.as_secs().max(1)),
        Attribute::BackendIdentifier(connect.backend.to_string()),
        Attribute::Sockets(descriptors(connect.sockets)),
    ]);
    Request { command: Command::Connect, attributes }
}

fn reconfigure_request(index: DeviceIndex, backend: &BackendId, change: &Reconfigure<'_>) -> Request {
    let change = match change {
        Reconfigure::Sockets(sockets) => Attribute::Sockets(descriptors(sockets)),
        Reconfigure::Size(size) => Attribute::SizeBytes(*size),
    };
    let attributes = vec![Attribute::Index(index), Attribute::BackendIdentifier(backend.to_string()), change];
    Request { command: Command::Reconfigure, attributes }
}

fn descriptors(sockets: &[BorrowedFd<'_>]) -> Vec<i32> {
    sockets.iter().map(AsRawFd::as_raw_fd).collect()
}

/// Where asking the driver went wrong.
#[derive(Debug)]
enum Failure {
    /// Before it was asked.
    Socket(io::Error),
    /// There is no driver to be asked.
    NoFamily,
    /// It refused.
    Refused(Command, Errno),
}

impl Failure {
    /// Says it in terms of what was wanted of `index`.
    fn explain(self, index: Option<DeviceIndex>) -> KernelError {
        use KernelErrorKind as Kind;
        let (command, errno) = match self {
            Failure::Socket(error) => {
                return KernelError::io("cannot talk to the kernel over netlink", error);
            }
            Failure::NoFamily => {
                return KernelError::new(Kind::NotLoaded, "the kernel's nbd driver is not there");
            }
            Failure::Refused(command, errno) => (command, errno),
        };
        let device = index.map_or_else(|| "a device".to_owned(), |index| index.to_string());
        let doing = match command {
            Command::Connect => "attach",
            Command::Disconnect => "detach",
            Command::Reconfigure => "change",
            Command::Status => "ask about",
        };
        // Numbers of errors are all the driver gives; what they mean depends on what it was asked.
        match (command, errno, index) {
            (_, Errno::EPERM, _) => KernelError::new(
                Kind::NotPermitted,
                format!("the kernel does not let cairnd {doing} {device}"),
            ),
            (Command::Connect, Errno::EBUSY | Errno::EEXIST, Some(index)) => KernelError::busy(index),
            (Command::Connect, Errno::ENOSPC, _) => {
                KernelError::new(Kind::NoFreeDevice, "the kernel has no free nbd device and can make no more")
            }
            (Command::Connect, Errno::EINVAL, Some(index)) => KernelError::new(
                Kind::UnknownDevice,
                format!("the kernel has no {index}: the number is too large, or the device is being removed"),
            ),
            (Command::Disconnect, Errno::EINVAL, Some(index)) => {
                KernelError::new(Kind::UnknownDevice, format!("the kernel has no {index}"))
            }
            // No such device, not attached, or with another mark: the driver tells the three only to its log.
            (Command::Reconfigure, Errno::EINVAL, Some(index)) => KernelError::not_ours(index),
            _ => KernelError::io(format!("the kernel could not {doing} {device}"), errno.into()),
        }
    }
}

/// Sends one request to the driver and gives what it answered.
fn ask(request: Request) -> Result<Vec<Reply>, Failure> {
    let command = request.command;
    let socket = kernel_socket().map_err(|errno| Failure::Socket(errno.into()))?;
    let family = family(&socket)?;
    let mut message = GenlMessage::from_payload(request);
    message.set_resolved_family_id(family);
    exchange(&socket, message).map_err(|error| match error {
        ExchangeError::Refused(errno) => Failure::Refused(command, errno),
        ExchangeError::Io(error) => Failure::Socket(error),
    })
}

/// The number the kernel gave the driver's family. Asking for it loads the module if that may be done.
fn family(socket: &OwnedFd) -> Result<u16, Failure> {
    let look_up = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(FAMILY.to_owned())],
    });
    let answer: Vec<GenlCtrl> = exchange(socket, look_up).map_err(|error| match error {
        ExchangeError::Refused(Errno::ENOENT) => Failure::NoFamily,
        ExchangeError::Refused(errno) => Failure::Socket(errno.into()),
        ExchangeError::Io(error) => Failure::Socket(error),
    })?;
    let number = answer.iter().flat_map(|ctrl| &ctrl.nlas).find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    });
    number.ok_or(Failure::NoFamily)
}

fn kernel_socket() -> nix::Result<OwnedFd> {
    let protocol = SockProtocol::NetlinkGeneric;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // Connected to the kernel, it takes messages from nobody else.
    connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

enum ExchangeError {
    /// The kernel answered with an error.
    Refused(Errno),
    /// There was no answer, or one that makes no sense.
    Io(io::Error),
}

impl From<Errno> for ExchangeError {
    fn from(errno: Errno) -> ExchangeError {
        ExchangeError::Io(errno.into())
    }
}

/// Sends `message` and collects answers until the kernel says that it is done with it.
fn exchange<Q, R>(socket: &OwnedFd, message: GenlMessage<Q>) -> Result<Vec<R>, ExchangeError>
where
    Q: GenlFamily + Emitable + Debug,
    R: ParseableParametrized<[u8], GenlHeader> + Debug,
{
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.header.sequence_number = SEQUENCE;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // The kernel acts on the message within this call.
    send(socket.as_raw_fd(), &bytes, MsgFlags::empty())?;

    let mut answers = Vec::new();
    let mut buffer = vec![0; ANSWER_BYTES];
    loop {
        // So the answers are there by now: waiting for one that is not would be for ever.
        let received = match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => return Err(nonsense("the kernel left a netlink message unanswered")),
            other => other?,
        };
        let mut rest = &buffer[..received];
        while !rest.is_empty() {
            let message =
                NetlinkMessage::<GenlMessage<R>>::deserialize(rest).map_err(|e| nonsense(&e.to_string()))?;
            let ours = message.header.sequence_number == SEQUENCE;
            match message.payload {
                NetlinkPayload::Error(outcome) if ours => {
                    return match outcome.code {
                        None => Ok(answers),
                        Some(code) => {
                            Err(ExchangeError::Refused(Errno::from_raw(code.get().saturating_neg())))
                        }
                    };
                }
                NetlinkPayload::InnerMessage(inner) if ours => answers.push(inner.into_parts().1),
                _ => {}
            }
            // Messages in one datagram begin at multiples of four bytes. A length of 0 would not have been parsed.
            let taken = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(taken..).unwrap_or(&[]);
        }
    }
}

fn nonsense(what: &str) -> ExchangeError {
    ExchangeError::Io(io::Error::new(io::ErrorKind::InvalidData, what))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU8;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::super::identity::VolumeKey;
    use super::*;

    fn backend() -> BackendId {
        let connections = NonZeroU8::new(2).expect("not zero");
        BackendId { volume: VolumeKey { pool: [0xab; 16], version: 9 }, connections }
    }

    #[test]
    fn a_connect_says_all_that_negotiation_would() {
        let (one, two) = UnixStream::pair().expect("sockets");
        let mut connect = Connect {
            index: None,
            backend: backend(),
            size: 10 << 30,
            block_size: 512,
            flags: 0x0d6d,
            request_timeout: None,
            dead_connection_timeout: Duration::from_secs(3600),
            sockets: &[one.as_fd(), two.as_fd()],
        };
        let mark = "cairn:abababababababababababababababab:9:2".to_owned();
        let mut expected = vec![
            Attribute::SizeBytes(10 << 30),
            Attribute::BlockSizeBytes(512),
            Attribute::ServerFlags(0x0d6d),
            Attribute::DeadConnTimeout(3600),
            Attribute::BackendIdentifier(mark),
            Attribute::Sockets(vec![one.as_raw_fd(), two.as_raw_fd()]),
        ];
        assert_eq!(connect_request(&connect).attributes, expected);
        connect.index = Some(DeviceIndex(4));
        connect.request_timeout = Some(Duration::from_millis(300));
        expected.insert(0, Attribute::Index(DeviceIndex(4)));
        expected.insert(4, Attribute::Timeout(1));
        assert_eq!(connect_request(&connect).attributes, expected);
    }

    #[test]
    fn sockets_and_size_never_go_in_one_message() {
        let (one, _two) = UnixStream::pair().expect("sockets");
        let attributes =
            |change: &Reconfigure<'_>| reconfigure_request(DeviceIndex(1), &backend(), change).attributes;
        let always = [Attribute::Index(DeviceIndex(1)), Attribute::BackendIdentifier(backend().to_string())];
        let with = |last: Attribute| [always.to_vec(), vec![last]].concat();
        assert_eq!(attributes(&Reconfigure::Size(7)), with(Attribute::SizeBytes(7)));
        let sockets = Attribute::Sockets(vec![one.as_raw_fd()]);
        assert_eq!(attributes(&Reconfigure::Sockets(&[one.as_fd()])), with(sockets));
    }

    #[test]
    fn refusals_are_told_in_terms_of_what_was_asked() {
        use KernelErrorKind as Kind;
        let index = Some(DeviceIndex(3));
        for (command, errno, index, kind) in [
            (Command::Connect, Errno::EPERM, None, Kind::NotPermitted),
            (Command::Disconnect, Errno::EPERM, index, Kind::NotPermitted),
            (Command::Connect, Errno::EBUSY, index, Kind::Busy),
            (Command::Connect, Errno::ENOSPC, None, Kind::NoFreeDevice),
            (Command::Connect, Errno::EINVAL, index, Kind::UnknownDevice),
            (Command::Connect, Errno::EINVAL, None, Kind::Failed),
            (Command::Disconnect, Errno::EINVAL, index, Kind::UnknownDevice),
            (Command::Reconfigure, Errno::EINVAL, index, Kind::NotOurs),
            (Command::Reconfigure, Errno::ENOMEM, index, Kind::Failed),
        ] {
            let error = Failure::Refused(command, errno).explain(index);
            assert_eq!(error.kind(), kind, "{command:?} {errno}");
            let names_device = index.is_none() || error.to_string().contains("/dev/nbd3");
            assert!(names_device, "{error}");
        }
        let error = Failure::NoFamily.explain(index);
        assert_eq!((error.kind(), error.hint()), (Kind::NotLoaded, "load it: modprobe nbd"));
    }

    #[test]
    fn the_kernel_answers_a_look_up() {
        // Generic netlink is part of every kernel. Its controller is a family too, and known by name.
        let socket = match kernel_socket() {
            Ok(socket) => socket,
            // In a sandbox without netlink there is nobody to ask.
            Err(Errno::EAFNOSUPPORT | Errno::EPROTONOSUPPORT | Errno::EPERM) => return,
            Err(errno) => panic!("no netlink socket: {errno}"),
        };
        let ask = |name: &str| {
            let nlas = vec![GenlCtrlAttrs::FamilyName(name.to_owned())];
            let look_up = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas });
            exchange::<_, GenlCtrl>(&socket, look_up)
        };
        let answer = ask("nlctrl").unwrap_or_else(|_| panic!("the controller knows itself"));
        assert!(answer.iter().flat_map(|c| &c.nlas).any(|nla| *nla == GenlCtrlAttrs::FamilyId(16)));
        assert!(matches!(ask("no-such-family"), Err(ExchangeError::Refused(Errno::ENOENT))));
    }
}
