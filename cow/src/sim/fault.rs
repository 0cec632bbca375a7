//! What goes wrong on purpose.

use std::io;
use std::ops::Range;

/// An operation of a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// A read.
    Read,
    /// A write.
    Write,
    /// A barrier.
    Sync,
    /// A growth.
    Grow,
}

/// A rule that makes some operations of a disk misbehave; see [`super::SimDisk::inject`].
///
/// By default it concerns every operation of its kind, anywhere, for ever, and makes it fail with EIO.
#[derive(Clone, Debug)]
#[must_use = "a fault does nothing until it is injected"]
pub struct Fault {
    op: Op,
    range: Option<Range<u64>>,
    skip: u64,
    times: u64,
    stays: bool,
    effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Fails with this errno.
    Error(i32),
    /// Reports success and does nothing.
    Lose,
    /// Works at another place, this many bytes away.
    Misdirect(i64),
    /// Brings one wrong bit.
    Flip,
}

const EIO: i32 = 5;

impl Fault {
    /// Concerns every `op`.
    pub fn on(op: Op) -> Fault {
        Fault { op, range: None, skip: 0, times: u64::MAX, stays: false, effect: Effect::Error(EIO) }
    }

    /// Only operations that touch these bytes of the disk.
    pub fn within(mut self, range: Range<u64>) -> Fault {
        self.range = Some(range);
        self
    }

    /// Lets `n` operations pass first.
    pub fn after(mut self, n: u64) -> Fault {
        self.skip = n;
        self
    }

    /// Only one operation, then never again.
    pub fn once(self) -> Fault {
        self.times(1)
    }

    /// Only `n` operations.
    pub fn times(mut self, n: u64) -> Fault {
        self.times = n;
        self
    }

    /// The first operation that is hit decides where: from then on whatever touches the same bytes, and nothing else.
    pub fn stays(mut self) -> Fault {
        self.stays = true;
        self
    }

    /// Fails with `errno`. A write that fails may have changed any of its sectors.
    pub fn error(mut self, errno: i32) -> Fault {
        self.effect = Effect::Error(errno);
        self
    }

    /// Succeeds without doing anything: a lost write, a barrier that lies.
    pub fn lose(mut self) -> Fault {
        self.effect = Effect::Lose;
        self
    }

    /// Works `bytes` further on (or back), which must be a multiple of 4096; a place outside the disk is no place.
    pub fn misdirect(mut self, bytes: i64) -> Fault {
        self.effect = Effect::Misdirect(bytes);
        self
    }

    /// A read brings one bit that is not what is stored; other operations are as always.
    pub fn flip(mut self) -> Fault {
        self.effect = Effect::Flip;
        self
    }

    /// Whether the rule hits this operation; counts it if it is of its kind.
    pub(super) fn hit(&mut self, op: Op, touched: &Range<u64>) -> Option<Effect> {
        let concerned = self.op == op
            && self.times > 0
            && self.range.as_ref().is_none_or(|r| r.start < touched.end && touched.start < r.end);
        if !concerned {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times -= 1;
        if std::mem::take(&mut self.stays) {
            self.range = Some(touched.clone());
        }
        Some(self.effect)
    }
}

impl Effect {
    pub(super) fn error(self) -> Option<io::Error> {
        match self {
            Effect::Error(errno) => Some(io::Error::from_raw_os_error(errno)),
            Effect::Lose | Effect::Misdirect(_) | Effect::Flip => None,
        }
    }
}
