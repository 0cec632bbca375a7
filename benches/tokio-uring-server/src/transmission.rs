//! Requests and replies, many in flight.
//!
//! One task takes requests in, each request is a task of its own, one task sends replies.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use cairn_nbd::Errno;
use cairn_nbd::proto::{Command, Head, HeaderStyle, MAX_PAYLOAD, PREFERRED_BLOCK, Request};
use tokio::sync::{Notify, Semaphore};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UnixStream;

use crate::Disk;
use crate::buffer::{Block, Piece};
use crate::handshake::receive_rest;

/// Bytes received at once, and from which size on a payload is received straight into its place: as cairn does.
const RECEIVE: usize = 256 << 10;
const LARGE: usize = 32 << 10;
/// How much is received at once after such a payload: another is likely to follow.
const RECEIVE_AFTER_LARGE: usize = 4 << 10;
/// Requests of one connection in flight.
const MAX_REQUESTS: usize = 256;

struct Connection {
    client: Rc<UnixStream>,
    disk: Rc<Disk>,
    replies: RefCell<Vec<Piece>>,
    ready: Notify,
    closing: Cell<bool>,
}

/// Serves one client until it leaves.
pub async fn run(client: Rc<UnixStream>, disk: Rc<Disk>) -> io::Result<()> {
    let connection = Rc::new(Connection {
        client,
        disk,
        replies: RefCell::default(),
        ready: Notify::new(),
        closing: Cell::new(false),
    });
    let sender = tokio_uring::spawn(send(Rc::clone(&connection)));
    let places = Arc::new(Semaphore::new(MAX_REQUESTS));
    let received = receive(&connection, &places).await;
    // What is in flight is answered first.
    let _all = places.acquire_many(MAX_REQUESTS as u32).await;
    connection.closing.set(true);
    connection.ready.notify_one();
    let sent = sender.await.unwrap_or_else(|error| Err(io::Error::other(error)));
    received.and(sent)
}

async fn receive(connection: &Rc<Connection>, places: &Arc<Semaphore>) -> io::Result<()> {
    let header = HeaderStyle::Simple.request_len();
    let (mut buffer, mut unread, mut window) = (Block::new(RECEIVE), 0..0, RECEIVE);
    loop {
        if unread.len() < header {
            buffer.0.copy_within(unread.clone(), 0);
            unread = 0..unread.len();
        }
        while unread.len() < header {
            let (result, slice) = connection.client.read(buffer.slice(unread.end..window)).await;
            buffer = slice.into_inner();
            match result? {
                0 if unread.is_empty() => return Ok(()),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                received => unread.end += received,
            }
        }
        window = RECEIVE;
        let request = Request::decode(&buffer.0[unread.start..], HeaderStyle::Simple)
            .map_err(|_| io::Error::other("not a request of NBD"))?;
        unread.start += header;
        if request.code == Command::Disc as u16 {
            return Ok(());
        }
        let mut payload = None;
        if request.code == Command::Write as u16 {
            if request.length > u64::from(MAX_PAYLOAD) {
                return Err(io::Error::other("a write is too large"));
            }
            let mut block = Block::new(request.length as usize);
            let here = unread.len().min(block.0.len());
            block.0[..here].copy_from_slice(&buffer.0[unread.start..unread.start + here]);
            unread.start += here;
            if block.0.len() >= LARGE {
                window = RECEIVE_AFTER_LARGE;
            }
            payload = Some(receive_rest(&connection.client, block, here).await?);
        }
        let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
        let connection = Rc::clone(connection);
        tokio_uring::spawn(async move {
            let result = perform(&connection.disk, &request, payload).await;
            connection.answer(&request, result);
            drop(place);
        });
    }
}

/// Carries out one request; gives the data of a read.
async fn perform(disk: &Disk, request: &Request, payload: Option<Block>) -> Result<Option<Block>, Errno> {
    let block = u64::from(PREFERRED_BLOCK);
    let known = Command::from_code(request.code).ok_or(Errno::Inval)?;
    if known == Command::Flush {
        return disk.file.sync_data().await.map(|()| None).map_err(|_| Errno::Io);
    }
    let aligned = request.offset.is_multiple_of(block) && request.length.is_multiple_of(block);
    let inside = request.offset.checked_add(request.length).is_some_and(|end| end <= disk.size);
    if !aligned || !inside || request.length == 0 || request.length > u64::from(MAX_PAYLOAD) {
        return Err(Errno::Inval);
    }
    match (known, payload) {
        (Command::Read, _) => {
            let buf = Block::new(request.length as usize);
            let (result, buf) = disk.file.read_exact_at(buf, request.offset).await;
            result.map(|()| Some(buf)).map_err(|_| Errno::Io)
        }
        (Command::Write, Some(data)) => {
            let (result, _) = disk.file.write_all_at(data, request.offset).await;
            result.map(|()| None).map_err(|_| Errno::Io)
        }
        _ => Err(Errno::Inval),
    }
}

impl Connection {
    /// Queues the reply.
    fn answer(&self, request: &Request, result: Result<Option<Block>, Errno>) {
        let (error, data) = match result {
            Ok(data) => (0, data),
            Err(errno) => (errno.code(), None),
        };
        let head = Head::simple_reply(error, request.cookie);
        let mut replies = self.replies.borrow_mut();
        match replies.last_mut() {
            Some(Piece::Heads(heads, _)) => heads.extend(head.as_bytes()),
            _ => replies.push(Piece::Heads(head.as_bytes().to_vec(), 0)),
        }
        replies.extend(data.map(|data| Piece::Data(data, 0)));
        self.ready.notify_one();
    }
}

/// Most pieces of one vectored write: `IOV_MAX`.
const MAX_PIECES: usize = 1024;

/// Sends replies as they become ready, all that there are at a time.
async fn send(connection: Rc<Connection>) -> io::Result<()> {
    loop {
        let pieces = std::mem::take(&mut *connection.replies.borrow_mut());
        if pieces.is_empty() {
            if connection.closing.get() {
                return Ok(());
            }
            connection.ready.notified().await;
            continue;
        }
        if let Err(error) = send_all(&connection.client, pieces).await {
            // The receiving side hears of it, too.
            let _ = connection.client.shutdown(std::net::Shutdown::Both);
            return Err(error);
        }
    }
}

async fn send_all(client: &UnixStream, mut pieces: Vec<Piece>) -> io::Result<()> {
    while !pieces.is_empty() {
        let later = pieces.split_off(pieces.len().min(MAX_PIECES));
        let result;
        (result, pieces) = client.writev(pieces).await;
        let mut sent = match result? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            sent => sent,
        };
        let whole = pieces
            .iter()
            .take_while(|piece| {
                let fits = piece.len() <= sent;
                sent -= if fits { piece.len() } else { 0 };
                fits
            })
            .count();
        pieces.drain(..whole);
        if let Some(first) = pieces.first_mut() {
            first.advance(sent);
        }
        pieces.extend(later);
    }
    Ok(())
}
