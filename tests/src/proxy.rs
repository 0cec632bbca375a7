//! A network that fails as a seed says: a TCP proxy between a client and a server.
//!
//! Time is counted in pieces, of whatever is received at once on any connection in either direction. The plan says at
//! which pieces what happens to the connection that carries them, or to all.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};

use crate::data::Rng;

/// The largest piece.
const PIECE: usize = 64 << 10;

/// What happens at a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It arrives late.
    Delay(Duration),
    /// A part of it arrives, then the connection ends as if all had been said.
    Truncate,
    /// It is lost, and the connection is reset.
    Reset,
    /// A part of it arrives, and nothing after that, while the connection stays.
    Stall,
    /// It is lost with all connections, and so many that are made after that.
    Refuse(u64),
    /// The network goes away with all connections and does not come back.
    Outage,
}

impl Fault {
    /// Any fault. One in eight is an outage.
    pub fn random(rng: &mut Rng) -> Fault {
        match rng.below(8) {
            0 => Fault::Delay(Duration::from_millis(20 + rng.below(300))),
            1 | 2 => Fault::Truncate,
            3 | 4 => Fault::Reset,
            5 => Fault::Stall,
            6 => Fault::Refuse(rng.below(3)),
            _ => Fault::Outage,
        }
    }
}

/// A running proxy. When it is dropped, all its connections end.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    ended: AtomicBool,
    pieces: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// What is still to happen, by the number of the piece.
    plan: BTreeMap<u64, Fault>,
    rng: Option<Rng>,
    links: Vec<Weak<Link>>,
    /// New connections that are turned away.
    refuse: u64,
    struck: u64,
}

/// A connection through the proxy.
#[derive(Debug)]
struct Link {
    client: TcpStream,
    server: TcpStream,
    stalled: AtomicBool,
    reset: AtomicBool,
}

impl Link {
    /// Ends it in both directions, in order for the client unless it is to be reset.
    fn end(&self) {
        // A connection that is gone already cannot be ended.
        let _ = self.server.shutdown(Shutdown::Both);
        let reset = self.reset.load(Ordering::Relaxed);
        let _ = self.client.shutdown(if reset { Shutdown::Read } else { Shutdown::Both });
    }

    /// Ends it without a goodbye to the client.
    fn reset(&self) {
        let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = setsockopt(&self.client, sockopt::Linger, &at_once);
        self.reset.store(true, Ordering::Relaxed);
        // Both pumps end now, and the client is told when the second closes its socket.
        self.end();
    }
}

/// What becomes of a piece: how much of it arrives, and whether anything does after that.
struct Fate {
    arrives: usize,
    goes_on: bool,
}

impl Proxy {
    /// A proxy of a server, with nothing planned.
    #[track_caller]
    pub fn start(server: SocketAddr) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            server,
            state: Mutex::default(),
            ended: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Proxy { address, shared }
    }

    /// Where clients find it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins to count pieces anew, with this to happen, parts and moments as the seed says.
    pub fn plan(&self, plan: impl IntoIterator<Item = (u64, Fault)>, seed: u64) {
        let mut state = self.shared.state();
        state.cut_all();
        let plan = plan.into_iter().collect();
        *state = State { plan, rng: Some(Rng::new(seed)), ..State::default() };
        self.shared.pieces.store(0, Ordering::Relaxed);
    }

    /// Pieces since the plan began.
    pub fn pieces(&self) -> u64 {
        self.shared.pieces.load(Ordering::Relaxed)
    }

    /// How much of the plan came to pass.
    pub fn struck(&self) -> u64 {
        self.shared.state().struck
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.shared.state().cut_all();
        // It is waiting for somebody.
        let _ = TcpStream::connect(self.address);
    }
}

impl State {
    fn cut_all(&mut self) {
        for link in self.links.drain(..).filter_map(|link| link.upgrade()) {
            link.reset();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // What a test that panicked has left is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Shared>, listener: &TcpListener) {
        for client in listener.incoming().map_while(Result::ok) {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let mut state = self.state();
            if state.refuse > 0 {
                state.refuse -= 1;
                continue;
            }
            let Ok(server) = TcpStream::connect(self.server) else { continue };
            for stream in [&client, &server] {
                stream.set_nodelay(true).expect("an option of a socket");
            }
            let link = Arc::new(Link {
                client,
                server,
                stalled: AtomicBool::new(false),
                reset: AtomicBool::new(false),
            });
            state.links.retain(|link| link.strong_count() > 0);
            state.links.push(Arc::downgrade(&link));
            for to_server in [true, false] {
                let (shared, link) = (Arc::clone(&self), Arc::clone(&link));
                thread::spawn(move || shared.pump(&link, to_server));
            }
        }
    }

    fn pump(&self, link: &Link, to_server: bool) {
        let (mut from, mut to) =
            if to_server { (&link.client, &link.server) } else { (&link.server, &link.client) };
        let mut buffer = vec![0; PIECE];
        loop {
            let len = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(len) => len,
            };
            let fate = self.fate(link, len);
            if to.write_all(&buffer[..fate.arrives]).is_err() || !fate.goes_on {
                break;
            }
        }
        if link.stalled.load(Ordering::Relaxed) {
            // Nobody is told anything until the client gives up. What it still says is swallowed.
            while matches!((&link.client).read(&mut buffer), Ok(1..)) {}
        }
        link.end();
    }

    fn fate(&self, link: &Link, len: usize) -> Fate {
        let number = self.pieces.fetch_add(1, Ordering::Relaxed);
        if link.stalled.load(Ordering::Relaxed) {
            return Fate { arrives: 0, goes_on: false };
        }
        let mut state = self.state();
        let Some((due, fault)) = state.plan.range(..=number).next().map(|(due, fault)| (*due, *fault)) else {
            return Fate { arrives: len, goes_on: true };
        };
        state.plan.remove(&due);
        state.struck += 1;
        let part = state.rng.as_mut().map_or(0, |rng| rng.below(len as u64)) as usize;
        let lost = Fate { arrives: 0, goes_on: false };
        match fault {
            Fault::Delay(time) => {
                drop(state);
                thread::sleep(time);
                Fate { arrives: len, goes_on: true }
            }
            Fault::Truncate => Fate { arrives: part, goes_on: false },
            Fault::Reset => {
                link.reset();
                lost
            }
            Fault::Stall => {
                link.stalled.store(true, Ordering::Relaxed);
                Fate { arrives: part, goes_on: false }
            }
            Fault::Refuse(more) => {
                state.refuse = more;
                state.cut_all();
                lost
            }
            Fault::Outage => {
                state.refuse = u64::MAX;
                state.cut_all();
                lost
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says what it hears, until it hears no more.
    fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    fn say(proxy: &Proxy, words: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(proxy.address())?;
        stream.set_read_timeout(Some(Duration::from_millis(300)))?;
        stream.write_all(words)?;
        let mut answer = vec![0; words.len()];
        let mut len = 0;
        while len < answer.len() {
            match stream.read(&mut answer[len..])? {
                0 => break,
                more => len += more,
            }
        }
        answer.truncate(len);
        Ok(answer)
    }

    #[test]
    fn faults_come_when_planned_and_as_planned() {
        let proxy = Proxy::start(echo());
        let words = [7; 1000];
        assert_eq!(say(&proxy, &words).expect("an echo"), words);
        assert_eq!((proxy.pieces(), proxy.struck()), (2, 0));

        proxy.plan([(3, Fault::Truncate)], 1);
        assert_eq!(say(&proxy, &words).expect("an echo"), words);
        assert!(say(&proxy, &words).expect("half an echo").len() < words.len());
        assert_eq!(say(&proxy, &words).expect("an echo"), words);
        assert_eq!(proxy.struck(), 1);

        proxy.plan([(1, Fault::Reset)], 1);
        let error = say(&proxy, &words).expect_err("a reset");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);

        proxy.plan([(0, Fault::Stall)], 1);
        let error = say(&proxy, &words).expect_err("silence");
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(say(&proxy, &words).expect("an echo"), words);

        proxy.plan([(0, Fault::Outage)], 1);
        for _ in 0..5 {
            assert_ne!(say(&proxy, &words).unwrap_or_default(), words);
        }
        proxy.plan([], 1);
        assert_eq!(say(&proxy, &words).expect("an echo"), words);
    }
}
