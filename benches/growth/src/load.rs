//! Load on NBD exports from many connections, with the time that every single request took.
//!
//! A thread is a client. With one connection of its own it keeps `depth` requests under way on it; with several it
//! sends one request at a time, each on another connection. So as many requests are under way whether they go to one
//! volume or to a thousand.

use std::io;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cairn_api::Size;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::nbd::{Command, Connection};

/// Bytes that writes are cut from.
const NOISE_BYTES: usize = 8 << 20;
/// How many of the slowest requests the report names: more than are ever far beyond the others.
const SLOWEST: usize = 20_000;

/// What the load does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Pattern {
    /// Reads anywhere.
    Randread,
    /// Writes anywhere.
    Randwrite,
    /// Writes from the start on, each client in a part of its own.
    Write,
}

/// What to load and how.
#[derive(Args, Debug)]
pub(crate) struct Plan {
    /// The server's Unix socket
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// The export; with --volumes the beginning of the exports' names, a number from 0 on follows
    #[arg(long, default_value = "demo")]
    export: String,
    /// Spread the load over this many exports
    #[arg(long)]
    volumes: Option<usize>,
    /// Clients, each a thread
    #[arg(long, default_value_t = 1)]
    clients: usize,
    /// Requests that each client with one connection keeps under way
    #[arg(long, default_value_t = 32)]
    depth: usize,
    /// What to do
    #[arg(long, value_enum, default_value = "randread")]
    pattern: Pattern,
    /// Bytes of each request
    #[arg(long, default_value = "4K")]
    block: Size,
    /// Keep to this much of each export's start; all of it when left out
    #[arg(long)]
    area: Option<Size>,
    /// How long to go on
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// How long to go on before that without counting
    #[arg(long, default_value_t = 0.3)]
    warmup: f64,
    /// Instead of for some time, until this much was read or written in all
    #[arg(long)]
    bytes: Option<Size>,
    /// Where the sequence of places begins
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A good and quick source of places: xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }
}

/// When a request was sent, in nanoseconds since the load began, and how long it took.
type Sample = (u64, u64);

struct Client<'a> {
    plan: &'a Plan,
    connections: Vec<Connection>,
    noise: &'a [u8],
    dice: Dice,
    block: u64,
    /// Requests that this client may still send, when that is what ends the load.
    budget: Option<u64>,
    /// The next place of a sequential pattern, in blocks, and its bounds.
    next: u64,
    from: u64,
    to: u64,
}

impl Client<'_> {
    /// Queues one request on a connection.
    fn request(&mut self, at: usize, cookie: u64) {
        let place = match self.plan.pattern {
            Pattern::Randread | Pattern::Randwrite => self.from + self.dice.below(self.to - self.from),
            Pattern::Write => {
                let place = self.next;
                self.next = if place + 1 == self.to { self.from } else { place + 1 };
                place
            }
        };
        let connection = &mut self.connections[at];
        let (offset, len) = (place * self.block, self.block as u32);
        if self.plan.pattern == Pattern::Randread {
            connection.queue(Command::Read, cookie, offset, len, &[]);
        } else {
            let noise = self.dice.below((self.noise.len() as u64 - self.block) / 8) as usize * 8;
            let payload = &self.noise[noise..noise + self.block as usize];
            connection.queue(Command::Write, cookie, offset, len, payload);
        }
    }

    fn may_go_on(&mut self, now: Instant, end: Instant) -> bool {
        match &mut self.budget {
            None => now < end,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn run(mut self, begun: Instant, end: Instant) -> io::Result<Vec<Sample>> {
        let mut samples = Vec::with_capacity(1 << 18);
        let payload = if self.plan.pattern == Pattern::Randread { self.block as usize } else { 0 };
        let since = |at: Instant| at.duration_since(begun).as_nanos() as u64;
        if self.connections.len() > 1 {
            let count = self.connections.len() as u64;
            loop {
                let now = Instant::now();
                if !self.may_go_on(now, end) {
                    return Ok(samples);
                }
                // In turn for what goes through each volume from its start, so that each gets all of it.
                let at = match self.plan.pattern {
                    Pattern::Write => samples.len() as u64 % count,
                    _ => self.dice.below(count),
                } as usize;
                self.request(at, 0);
                self.connections[at].send()?;
                self.connections[at].receive(|_| payload)?;
                samples.push((since(now), now.elapsed().as_nanos() as u64));
            }
        }
        let mut sent_at = vec![begun; self.plan.depth];
        let mut idle: Vec<usize> = (0..self.plan.depth).collect();
        loop {
            let now = Instant::now();
            while !idle.is_empty() && self.may_go_on(now, end) {
                let Some(slot) = idle.pop() else { break };
                sent_at[slot] = now;
                self.request(0, slot as u64);
            }
            if idle.len() == self.plan.depth {
                return Ok(samples);
            }
            let connection = &mut self.connections[0];
            connection.send()?;
            loop {
                let slot = connection.receive(|_| payload)? as usize;
                let sent = *sent_at.get(slot).ok_or_else(|| io::Error::other("a reply to no request"))?;
                samples.push((since(sent), sent.elapsed().as_nanos() as u64));
                idle.push(slot);
                if !connection.has_more() {
                    break;
                }
            }
        }
    }
}

/// Runs the load and reports on it.
pub(crate) fn run(plan: &Plan) -> Result<Value, String> {
    let block = plan.block.bytes();
    if block == 0 || block as usize > NOISE_BYTES / 2 || plan.clients == 0 || plan.depth == 0 {
        return Err("give at least one client, a depth, and blocks of up to 4 MiB".to_owned());
    }
    let mut dice = Dice::new(0xa5);
    let noise: Vec<u8> = (0..NOISE_BYTES / 8).flat_map(|_| dice.next().to_le_bytes()).collect();
    let names: Vec<String> = match plan.volumes {
        None => vec![plan.export.clone()],
        Some(count) => (0..count).map(|i| format!("{}{i}", plan.export)).collect(),
    };
    let total = names.len().max(plan.clients);
    let budget = plan.bytes.map(|bytes| bytes.bytes().div_ceil(block));
    let mut clients = Vec::new();
    for number in 0..plan.clients {
        let mine = (number..total).step_by(plan.clients).map(|i| &names[i % names.len()]);
        let connections = mine
            .map(|name| {
                Connection::open(&plan.socket, name).map_err(|e| format!("connecting to {name}: {e}"))
            })
            .collect::<Result<Vec<Connection>, String>>()?;
        let size = connections.iter().map(|c| c.size).min().unwrap_or(0);
        let blocks = plan.area.map_or(size, |area| area.bytes().min(size)) / block;
        if blocks < plan.clients as u64 {
            return Err("the exports are too small for this load".to_owned());
        }
        // Clients that share an export share its blocks, when each goes from a start to an end.
        let apart = plan.pattern == Pattern::Write && connections.len() == 1;
        let share = |at: usize| blocks * at as u64 / plan.clients as u64;
        let (from, to) = if apart { (share(number), share(number + 1)) } else { (0, blocks) };
        clients.push(Client {
            plan,
            connections,
            noise: &noise,
            dice: Dice::new(plan.seed * 1000 + number as u64),
            block,
            budget: budget.map(|all| {
                let share = |at: usize| all * at as u64 / plan.clients as u64;
                share(number + 1) - share(number)
            }),
            next: from,
            from,
            to,
        });
    }
    let begun = Instant::now();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    let warmup = if budget.is_some() { 0.0 } else { plan.warmup };
    let end = begun + Duration::from_secs_f64(warmup + plan.seconds);
    let start = Barrier::new(clients.len());
    let ended: Vec<io::Result<Vec<Sample>>> = thread::scope(|scope| {
        let start = &start;
        let threads: Vec<_> = clients
            .into_iter()
            .map(|client| {
                scope.spawn(move || {
                    start.wait();
                    client.run(begun, end)
                })
            })
            .collect();
        let panicked = |_| Err(io::Error::other("a client panicked"));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(panicked)).collect()
    });
    let seconds = begun.elapsed().as_secs_f64() - warmup;
    let mut samples = Vec::new();
    for client in ended {
        samples.extend(client.map_err(|e| format!("a request failed: {e}"))?);
    }
    samples.retain(|(sent, took)| (sent + took) as f64 >= warmup * 1e9);
    Ok(report(samples, seconds, block, clock))
}

fn report(mut samples: Vec<Sample>, seconds: f64, block: u64, clock: f64) -> Value {
    samples.sort_unstable_by_key(|(_, took)| *took);
    let at = |part: f64| {
        let index = (samples.len() as f64 * part) as usize;
        samples.get(index.min(samples.len().saturating_sub(1))).map_or(0.0, |(_, took)| *took as f64 / 1e3)
    };
    let slowest: Vec<(f64, f64)> = samples
        .iter()
        .rev()
        .take(SLOWEST)
        .map(|(sent, took)| (clock + *sent as f64 / 1e9, *took as f64 / 1e3))
        .collect();
    json!({
        "requests": samples.len(),
        "seconds": seconds,
        "iops": samples.len() as f64 / seconds,
        "mib_s": samples.len() as f64 * block as f64 / seconds / f64::from(1 << 20),
        "p50_us": at(0.5),
        "p99_us": at(0.99),
        "p999_us": at(0.999),
        "max_us": at(1.0),
        "slowest": slowest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_counts_what_there_was() {
        let samples = (0..1000).map(|i| (i, (1000 - i) * 1000)).collect();
        let report = report(samples, 2.0, 4096, 100.0);
        assert_eq!(report["requests"], 1000);
        assert_eq!(report["iops"], 500.0);
        assert_eq!(report["p50_us"], 501.0);
        assert_eq!(report["p999_us"], 1000.0);
        assert_eq!(report["max_us"], 1000.0);
        assert_eq!(report["slowest"][0][1], 1000.0);
        assert_eq!(report["slowest"].as_array().map(Vec::len), Some(1000));
    }

    #[test]
    fn dice_reach_all_sides() {
        let mut dice = Dice::new(1);
        let mut seen = [0; 6];
        (0..600).for_each(|_| seen[dice.below(6) as usize] += 1);
        assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
    }
}
