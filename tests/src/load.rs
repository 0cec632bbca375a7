//! A load whose every write is known to the oracle: several connections, each with many requests in flight.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use crate::data::{Rng, SECTOR, SECTORS_PER_BLOCK, stamp};
use crate::nbd::{Client, Error, Features, Request, wire};
use crate::oracle::{Model, Tick, Ticket};

/// A model shared by the connections that write to its disk.
pub type SharedModel = Arc<Mutex<Model>>;

/// Locks the model; a panic elsewhere is reported where it happened, not here.
pub fn lock(model: &SharedModel) -> MutexGuard<'_, Model> {
    model.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The shape of a load.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Connections, every second of which uses simple replies.
    pub connections: usize,
    /// Requests in flight on each.
    pub depth: usize,
    /// Whether trims and zeroes are mixed in. [`crate::oracle::Cut`] can't tell one zero from another.
    pub zeroes: bool,
    /// Blocks of the largest write.
    pub largest: u64,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Result<(), Error>>>,
}

enum InFlight {
    Write(Ticket, bool),
    Flush(Tick),
}

struct Writer {
    client: Client,
    model: SharedModel,
    shape: Shape,
    rng: Rng,
    in_flight: HashMap<u64, InFlight>,
    payload: Vec<u8>,
}

impl Load {
    /// Connects and starts to write.
    #[track_caller]
    pub fn start(socket: &Path, export: &str, model: &SharedModel, shape: Shape, seed: u64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let threads = (0..shape.connections)
            .map(|number| {
                let features = if number % 2 == 0 { Features::FULL } else { Features::SIMPLE };
                let socket: PathBuf = socket.to_owned();
                let client = Client::connect_with(&socket, export, features)
                    .unwrap_or_else(|e| panic!("the load cannot connect: {e}"));
                let mut writer = Writer {
                    client,
                    model: Arc::clone(model),
                    shape,
                    rng: Rng::new(seed ^ (number as u64 + 1).rotate_left(40)),
                    in_flight: HashMap::new(),
                    payload: Vec::new(),
                };
                let stop = Arc::clone(&stop);
                let answered = Arc::clone(&answered);
                thread::spawn(move || writer.run(&stop, &answered))
            })
            .collect();
        Load { stop, answered, threads }
    }

    /// Requests answered so far.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for what is in flight, and panics if anything failed.
    #[track_caller]
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let result = thread.join().expect("the load does not panic");
            result.unwrap_or_else(|e| panic!("the load failed: {e}"));
        }
        self.answered.load(Ordering::Relaxed)
    }

    /// After the daemon was killed: every connection must have ended with its socket, none with an error answer.
    #[track_caller]
    pub fn killed(self) -> u64 {
        self.ended(|error| matches!(error, Error::Connection(_)))
    }

    /// After the daemon was asked to stop: as [`Load::killed`], but it may also have said that it is shutting down.
    #[track_caller]
    pub fn stopped(self) -> u64 {
        self.ended(|error| matches!(error, Error::Connection(_) | Error::Request(wire::ESHUTDOWN)))
    }

    #[track_caller]
    fn ended(self, fitting: impl Fn(&Error) -> bool) -> u64 {
        for thread in self.threads {
            match thread.join().expect("the load does not panic") {
                Err(error) if fitting(&error) => {}
                other => panic!("a connection ended with {other:?} rather than with its socket"),
            }
        }
        self.answered.load(Ordering::Relaxed)
    }
}

impl Writer {
    fn run(&mut self, stop: &AtomicBool, answered: &AtomicU64) -> Result<(), Error> {
        loop {
            while self.in_flight.len() < self.shape.depth && !stop.load(Ordering::Relaxed) {
                if !self.send_one()? {
                    break;
                }
            }
            if self.in_flight.is_empty() {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                thread::yield_now();
                continue;
            }
            self.receive_one()?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Sends a random request; false when the place it chose is busy.
    fn send_one(&mut self) -> Result<bool, Error> {
        let kind = self.rng.below(100);
        if kind < 6 {
            let sent = lock(&self.model).tick();
            let cookie = self.client.send(Request::Flush)?;
            self.in_flight.insert(cookie, InFlight::Flush(sent));
            return Ok(true);
        }
        let zeroes = self.shape.zeroes && kind < 14;
        let (sector, sectors) = self.place(kind, zeroes);
        let fua = self.rng.chance(8);
        let Some(ticket) = lock(&self.model).begin(sector, sectors, zeroes) else { return Ok(false) };
        let offset = sector * SECTOR as u64;
        let len = (sectors * SECTOR as u64) as u32;
        let request = if zeroes && kind.is_multiple_of(2) {
            Request::WriteZeroes { offset, len, fua }
        } else if zeroes {
            Request::Trim { offset, len, fua }
        } else {
            self.payload.resize(len as usize, 0);
            stamp(&mut self.payload, sector, ticket.counter);
            Request::Write { offset, data: &self.payload, fua }
        };
        let cookie = self.client.send(request)?;
        self.in_flight.insert(cookie, InFlight::Write(ticket, fua));
        Ok(true)
    }

    /// Where to write: mostly a few whole blocks, some single sectors, a few large runs. Zeroes are whole blocks,
    /// since a trim may leave what it covers in part.
    fn place(&mut self, kind: u64, zeroes: bool) -> (u64, u64) {
        let per_block = SECTORS_PER_BLOCK as u64;
        let disk = lock(&self.model).sectors();
        let (unit, most) = match kind {
            _ if zeroes => (per_block, self.shape.largest),
            0..30 => (1, 2 * per_block),
            30..34 => (per_block, self.shape.largest),
            _ => (per_block, 8.min(self.shape.largest)),
        };
        let sectors = unit * (1 + self.rng.below(most));
        let sector = self.rng.below((disk - sectors) / unit + 1) * unit;
        (sector, sectors)
    }

    fn receive_one(&mut self) -> Result<(), Error> {
        let reply = self.client.recv()?;
        let done = self.in_flight.remove(&reply.cookie).expect("the client checks cookies");
        reply.result.map_err(Error::Request)?;
        match done {
            InFlight::Write(ticket, fua) => lock(&self.model).answered(ticket, fua),
            InFlight::Flush(sent) => lock(&self.model).flushed(sent),
        }
        Ok(())
    }
}
