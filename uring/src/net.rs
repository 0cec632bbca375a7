//! Stream sockets: Unix and TCP listeners and connections.

use std::io;
use std::mem::size_of;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::ptr;
use std::sync::Arc;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use crate::buf::{IoBuf, IoBufMut};
use crate::fs::{part_len, to_result};
use crate::rt::{Op, OpData};
use crate::scatter::Scatter;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Unix,
    Tcp,
}

/// A listening Unix or TCP socket.
#[derive(Debug)]
pub struct Listener {
    socket: Arc<OwnedFd>,
    family: Family,
}

impl Listener {
    /// Takes a Unix listener over.
    ///
    /// # Errors
    ///
    /// When it can't be made blocking, as the ring needs it.
    pub fn unix(listener: UnixListener) -> io::Result<Listener> {
        listener.set_nonblocking(false)?;
        Ok(Self { socket: Arc::new(listener.into()), family: Family::Unix })
    }

    /// Takes a TCP listener over.
    ///
    /// # Errors
    ///
    /// When it can't be made blocking, as the ring needs it.
    pub fn tcp(listener: TcpListener) -> io::Result<Listener> {
        listener.set_nonblocking(false)?;
        Ok(Self { socket: Arc::new(listener.into()), family: Family::Tcp })
    }

    /// Waits for a connection. Connections that were broken before they were accepted are passed over. Dropping the
    /// wait at the very moment a connection is accepted closes that connection.
    ///
    /// An accepted TCP connection is probed by the kernel when it has been idle for a minute, and fails a minute later
    /// if nobody answers: a peer that lost power or its network does not stay for ever.
    ///
    /// # Errors
    ///
    /// What `accept(2)` says. Errors like `EMFILE` pass: the caller waits a little and goes on.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            let accepted = Op::new(Accept { socket: Arc::clone(&self.socket) }).await;
            let stream = match (accepted, self.family) {
                (Ok(fd), Family::Unix) => Stream::from_unix(fd.into()),
                (Ok(fd), Family::Tcp) => keep_alive(&fd).and_then(|()| Stream::from_tcp(fd.into())),
                (Err(error), _) => Err(error),
            };
            match stream {
                Err(error) if is_broken_early(&error) => {}
                other => return other,
            }
        }
    }
}

/// Seconds a TCP connection is idle before it is probed.
const KEEPALIVE_IDLE_SECS: i32 = 60;
/// Seconds between probes.
const KEEPALIVE_INTERVAL_SECS: i32 = 10;
/// Probes without an answer after which the connection fails.
const KEEPALIVE_PROBES: i32 = 6;

/// Has the kernel find out when the other end of a TCP connection is gone.
fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_SECS),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECS),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES),
    ] {
        // SAFETY: reads the one number that the pointer refers to, as its length says.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if outcome < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Bytes that may be on their way through a Unix socket, as asked for; the kernel doubles it for its own overhead. With
/// its default of 208 KiB the reply to a 1 MiB read takes a dozen wake-ups of both ends, with this one or two. More
/// than the caches hold makes it slower again.
const UNIX_SEND_BUFFER: i32 = 512 << 10;

/// Has the kernel take more of a large reply at once. Beyond `net.core.wmem_max` that needs `CAP_NET_ADMIN`; without it
/// the socket gets as much as it may have.
fn enlarge_send_buffer(socket: BorrowedFd<'_>) {
    let bytes = UNIX_SEND_BUFFER;
    for option in [libc::SO_SNDBUFFORCE, libc::SO_SNDBUF] {
        // SAFETY: reads the one number that the pointer refers to, as its length says.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                option,
                (&raw const bytes).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        if outcome == 0 {
            return;
        }
    }
}

/// Whether an error is about one connection that is gone already, or nothing at all.
fn is_broken_early(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
    )
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Who is at the other end of a [`Stream`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, as it was when it connected.
    Unix {
        /// Its process id; 0 when it is not visible from here.
        pid: i32,
        /// Its effective user id.
        uid: u32,
    },
    /// Another socket's address.
    Tcp(SocketAddr),
}

/// Who connected a Unix socket, as it was when it did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The process id; 0 when it is not visible from here.
    pub pid: i32,
    /// The effective user id.
    pub uid: u32,
    /// The effective group id, and the supplementary ones.
    pub groups: Vec<u32>,
}

impl Credentials {
    /// Of whoever connected this Unix socket.
    ///
    /// # Errors
    ///
    /// When the kernel doesn't say, as for a socket of another kind.
    pub fn of_peer(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
        let libc::ucred { pid, uid, gid } = peer_credentials(socket)?;
        let mut groups = peer_groups(socket)?;
        groups.push(gid);
        Ok(Credentials { pid, uid, groups })
    }
}

/// `SO_PEERCRED` (unix(7)).
fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<libc::ucred> {
    let mut credentials = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: writes at most `len` bytes, the size of the structure, to it, and one number to `len`.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut credentials).cast(),
            &raw mut len,
        )
    };
    if outcome < 0 { Err(io::Error::last_os_error()) } else { Ok(credentials) }
}

/// `SO_PEERGROUPS` (socket(7)): the supplementary groups.
fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: writes at most `len` bytes, the size of the vector's elements, to them, and one number to `len`.
        let outcome = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        let count = len as usize / size_of::<u32>();
        if outcome == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel has said how many there are; they do not change.
        if error.raw_os_error() != Some(libc::ERANGE) || count <= groups.len() {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// A connected Unix or TCP socket.
///
/// One task may read while another writes. Two that read (or write) at the same time get (or leave) the bytes in
/// parts mixed in no particular order. It may be sent to another thread, and goes on there.
///
/// Dropping a read or write before it is done leaves open how much of it happened: the connection is then good for
/// nothing but closing.
#[derive(Debug)]
pub struct Stream {
    socket: Arc<OwnedFd>,
    peer: Peer,
}

impl Stream {
    /// Takes a connected Unix socket over, and has it take more at once than by default.
    ///
    /// # Errors
    ///
    /// When it can't be made blocking, as the ring needs it, or the kernel doesn't say who is at the other end.
    pub fn from_unix(stream: UnixStream) -> io::Result<Stream> {
        stream.set_nonblocking(false)?;
        let credentials = peer_credentials(stream.as_fd())?;
        enlarge_send_buffer(stream.as_fd());
        let peer = Peer::Unix { pid: credentials.pid, uid: credentials.uid };
        Ok(Self { socket: Arc::new(stream.into()), peer })
    }

    /// Takes a connected TCP socket over and sets `TCP_NODELAY`.
    ///
    /// # Errors
    ///
    /// When the connection is broken already, or the socket refuses the options it needs.
    pub fn from_tcp(stream: TcpStream) -> io::Result<Stream> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let peer = Peer::Tcp(stream.peer_addr()?);
        Ok(Self { socket: Arc::new(stream.into()), peer })
    }

    /// Who is at the other end of a Unix socket, with all groups.
    ///
    /// # Errors
    ///
    /// For a TCP socket, and when the kernel doesn't say.
    pub fn credentials(&self) -> io::Result<Credentials> {
        Credentials::of_peer(self.socket.as_fd())
    }

    /// The socket's descriptor, to go on with it elsewhere.
    ///
    /// # Errors
    ///
    /// When a cancelled operation still holds the socket and the process has no descriptor left for a duplicate.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        Arc::try_unwrap(self.socket).or_else(|shared| shared.try_clone())
    }

    /// Waits for bytes and takes as many as are there and fit into `buf`; 0 is the end of the stream (or an empty
    /// `buf`).
    ///
    /// # Errors
    ///
    /// What `recv(2)` says.
    pub async fn read<B: IoBufMut>(&self, mut buf: B) -> (io::Result<usize>, B) {
        loop {
            let result;
            (result, buf) = self.receive(buf, 0, 0).await;
            match result {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return (other, buf),
            }
        }
    }

    /// Fills `buf`.
    ///
    /// # Errors
    ///
    /// `UnexpectedEof` when the stream ends before, else what `recv(2)` says. What came in until then is lost.
    pub async fn read_exact<B: IoBufMut>(&self, mut buf: B) -> (io::Result<()>, B) {
        let mut done = 0;
        while done < buf.len() {
            let result;
            (result, buf) = self.receive(buf, done, libc::MSG_WAITALL).await;
            match result {
                Ok(0) => return (Err(io::ErrorKind::UnexpectedEof.into()), buf),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (Err(error), buf),
            }
        }
        (Ok(()), buf)
    }

    /// Sends all of `buf`. Never raises `SIGPIPE`.
    ///
    /// # Errors
    ///
    /// What `send(2)` says; `BrokenPipe` when the other end is closed. A part may have been sent.
    pub async fn write_all<B: IoBuf>(&self, mut buf: B) -> (io::Result<()>, B) {
        let mut done = 0;
        while done < buf.len() {
            let result;
            (result, buf) = Op::new(SendBuf { socket: Arc::clone(&self.socket), buf, skip: done }).await;
            if let Err(error) = advance_send(&mut done, result) {
                return (Err(error), buf);
            }
        }
        (Ok(()), buf)
    }

    /// Sends all of `bufs`, one behind the other, in as few messages as their number allows.
    ///
    /// # Errors
    ///
    /// As [`write_all`](Stream::write_all).
    pub async fn writev_all<B: IoBuf>(&self, mut bufs: Vec<B>) -> (io::Result<()>, Vec<B>) {
        let len: usize = bufs.iter().map(IoBuf::len).sum();
        let mut done = 0;
        while done < len {
            let result;
            let scatter = Scatter::new(&bufs, done);
            (result, bufs) = Op::new(SendMsg { socket: Arc::clone(&self.socket), bufs, scatter }).await;
            if let Err(error) = advance_send(&mut done, result) {
                return (Err(error), bufs);
            }
        }
        (Ok(()), bufs)
    }

    /// Closes one or both directions: the other end sees the end of the stream, and reads waiting here end.
    ///
    /// # Errors
    ///
    /// `NotConnected` when the connection is gone.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        shut_down(&self.socket, how)
    }

    /// What ends the connection from anywhere else, as [`shutdown`](Stream::shutdown) of both directions does.
    pub fn closer(&self) -> Closer {
        Closer { socket: Arc::clone(&self.socket) }
    }

    /// Who is at the other end, as of when the connection was made.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    async fn receive<B: IoBufMut>(&self, buf: B, skip: usize, flags: i32) -> (io::Result<usize>, B) {
        Op::new(Recv { socket: Arc::clone(&self.socket), buf, skip, flags }).await
    }
}

fn shut_down(socket: &OwnedFd, how: Shutdown) -> io::Result<()> {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: a system call on a descriptor that the reference keeps open.
    if unsafe { libc::shutdown(socket.as_raw_fd(), how) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends a [`Stream`]'s connection, from any thread. It keeps the descriptor open, not the connection.
#[derive(Clone, Debug)]
pub struct Closer {
    socket: Arc<OwnedFd>,
}

impl Closer {
    /// Ends the connection; what waits for it gets an error or the end of the stream.
    pub fn close(&self) {
        // The only failure is ENOTCONN: it has ended already.
        let _ = shut_down(&self.socket, Shutdown::Both);
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn advance_send(done: &mut usize, result: io::Result<usize>) -> io::Result<()> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Ok(count) => {
            *done += count;
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        Err(error) => Err(error),
    }
}

/// The kernel goes on by itself after a part was sent, where it can.
const SEND_FLAGS: i32 = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;

struct Accept {
    socket: Arc<OwnedFd>,
}

// SAFETY: owns the socket; refers to no memory.
unsafe impl OpData for Accept {
    type Output = io::Result<OwnedFd>;

    fn entry(&mut self) -> squeue::Entry {
        let socket = Fd(self.socket.as_raw_fd());
        opcode::Accept::new(socket, ptr::null_mut(), ptr::null_mut()).flags(libc::SOCK_CLOEXEC).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        to_result(result)?;
        // SAFETY: a descriptor the kernel just made for this operation; nobody else has it.
        Ok(unsafe { OwnedFd::from_raw_fd(result) })
    }
}

struct Recv<B> {
    socket: Arc<OwnedFd>,
    buf: B,
    skip: usize,
    flags: i32,
}

// SAFETY: owns the socket and, by `IoBufMut`, an immovable buffer that nobody else uses.
unsafe impl<B: IoBufMut> OpData for Recv<B> {
    type Output = (io::Result<usize>, B);

    fn entry(&mut self) -> squeue::Entry {
        let socket = Fd(self.socket.as_raw_fd());
        let start = self.buf.as_mut_ptr().wrapping_add(self.skip);
        opcode::Recv::new(socket, start, part_len(self.buf.len(), self.skip)).flags(self.flags).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.buf)
    }
}

struct SendBuf<B> {
    socket: Arc<OwnedFd>,
    buf: B,
    skip: usize,
}

// SAFETY: owns the socket and, by `IoBuf`, an immovable buffer that nobody writes to.
unsafe impl<B: IoBuf> OpData for SendBuf<B> {
    type Output = (io::Result<usize>, B);

    fn entry(&mut self) -> squeue::Entry {
        let socket = Fd(self.socket.as_raw_fd());
        let start = self.buf.as_ptr().wrapping_add(self.skip);
        opcode::Send::new(socket, start, part_len(self.buf.len(), self.skip)).flags(SEND_FLAGS).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.buf)
    }
}

struct SendMsg<B> {
    socket: Arc<OwnedFd>,
    bufs: Vec<B>,
    scatter: Scatter,
}

// SAFETY: owns the socket, by `IoBuf` immovable buffers, and the list of their ranges, which is boxed.
unsafe impl<B: IoBuf> OpData for SendMsg<B> {
    type Output = (io::Result<usize>, Vec<B>);

    fn entry(&mut self) -> squeue::Entry {
        let socket = Fd(self.socket.as_raw_fd());
        opcode::SendMsg::new(socket, self.scatter.message()).flags(SEND_FLAGS as u32).build()
    }

    fn complete(self, result: i32) -> Self::Output {
        (to_result(result), self.bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(socket: BorrowedFd<'_>, level: i32, option: i32) -> i32 {
        let (mut value, mut len) = (0_i32, size_of::<i32>() as libc::socklen_t);
        // SAFETY: writes at most `len` bytes, the size of the number, to it, and one number to `len`.
        let outcome = unsafe {
            libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut len)
        };
        assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
        value
    }

    #[test]
    fn accepted_tcp_connections_notice_a_peer_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let listener = Listener::tcp(listener).unwrap();
        let mut reactor = crate::Reactor::new(crate::Config::default()).unwrap();
        let stream = reactor.block_on(listener.accept()).unwrap();
        let socket = stream.as_fd();
        assert_ne!(option(socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
        assert_eq!(option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 60);
        assert_eq!(option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), 10);
        assert_eq!(option(socket, libc::IPPROTO_TCP, libc::TCP_KEEPCNT), 6);
    }
}
