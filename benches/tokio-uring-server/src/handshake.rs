//! Fixed newstyle negotiation, as far as INFO and GO.

use std::io;

use cairn_nbd::proto::{self, Fields, client_flag, handshake_flag, info, option, option_reply};
use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::UnixStream;

use crate::Disk;
use crate::buffer::Block;

/// HAS_FLAGS, SEND_FLUSH, CAN_MULTI_CONN.
const TRANSMISSION_FLAGS: u16 = 1 | 1 << 2 | 1 << 8;
/// No client needs longer options here: a name and a few kinds of information.
const MAX_OPTION: usize = 8192;

/// Whether the client chose to go on to transmission.
pub async fn negotiate(client: &UnixStream, disk: &Disk) -> io::Result<bool> {
    let mut greeting = Vec::new();
    greeting.extend(proto::NBD_MAGIC.to_be_bytes());
    greeting.extend(proto::OPTION_MAGIC.to_be_bytes());
    greeting.extend((handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
    client.write_all(greeting).await.0?;
    let flags = receive(client, 4).await?;
    let known = client_flag::FIXED_NEWSTYLE | client_flag::NO_ZEROES;
    if number(Fields::new(&flags).u32())? & !known != 0 {
        return Err(io::Error::other("unknown client flags"));
    }
    loop {
        let head = receive(client, 16).await?;
        let mut head = Fields::new(&head);
        let magic = number(head.u64())?;
        let (asked, len) = (number(head.u32())?, number(head.u32())? as usize);
        if magic != proto::OPTION_MAGIC || len > MAX_OPTION {
            return Err(io::Error::other("not an option of NBD"));
        }
        let data = receive(client, len).await?;
        let mut answer = Vec::new();
        match asked {
            option::ABORT => answer_option(&mut answer, asked, option_reply::ACK, &[]),
            // Its name would be the first four bytes: the one export has the empty one.
            option::GO | option::INFO if data.starts_with(&[0; 4]) => {
                let mut export = info::EXPORT.to_be_bytes().to_vec();
                export.extend(disk.size.to_be_bytes());
                export.extend(TRANSMISSION_FLAGS.to_be_bytes());
                answer_option(&mut answer, asked, option_reply::INFO, &export);
                let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
                for size in [proto::PREFERRED_BLOCK, proto::PREFERRED_BLOCK, proto::MAX_PAYLOAD] {
                    sizes.extend(size.to_be_bytes());
                }
                answer_option(&mut answer, asked, option_reply::INFO, &sizes);
                answer_option(&mut answer, asked, option_reply::ACK, &[]);
            }
            option::GO | option::INFO => answer_option(&mut answer, asked, option_reply::ERR_UNKNOWN, &[]),
            option::EXPORT_NAME => return Err(io::Error::other("the client is too old: it has no GO")),
            _ => answer_option(&mut answer, asked, option_reply::ERR_UNSUP, &[]),
        }
        let acknowledged = answer.ends_with(&[option_reply::ACK.to_be_bytes(), [0; 4]].concat());
        client.write_all(answer).await.0?;
        match asked {
            option::GO if acknowledged => return Ok(true),
            option::ABORT => return Ok(false),
            _ => {}
        }
    }
}

fn answer_option(answer: &mut Vec<u8>, asked: u32, kind: u32, data: &[u8]) {
    answer.extend(proto::OPTION_REPLY_MAGIC.to_be_bytes());
    answer.extend(asked.to_be_bytes());
    answer.extend(kind.to_be_bytes());
    answer.extend((data.len() as u32).to_be_bytes());
    answer.extend(data);
}

fn number<T>(read: Option<T>) -> io::Result<T> {
    read.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

async fn receive(client: &UnixStream, len: usize) -> io::Result<Vec<u8>> {
    Ok(receive_rest(client, Block::new(len), 0).await?.0.to_vec())
}

/// Fills `block` from byte `at` on.
pub async fn receive_rest(client: &UnixStream, mut block: Block, mut at: usize) -> io::Result<Block> {
    while at < block.0.len() {
        let (result, slice) = client.read(block.slice(at..)).await;
        block = slice.into_inner();
        at += match result? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            received => received,
        };
    }
    Ok(block)
}
