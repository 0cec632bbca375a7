//! The journal's typed records: everything that changes a pool, in the one order in which it happened.
//!
//! A record says what it did to the map *and* to space: which blocks it took, and which it freed. So replay never
//! has to read a leaf to know what is free; it reads inner nodes only, and leaves when they are next needed.

use crate::codec::{Reader, Writer};
use crate::error::Result;
use crate::space::Run;
use crate::types::{BlockAddr, Epoch, VersionId};

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Record {
    /// Consecutive blocks of one leaf were written.
    Write {
        head: VersionId,
        lba: u64,
        /// The birth of the blocks.
        epoch: Epoch,
        /// Where they stand; in all as many blocks as there are checksums.
        runs: Vec<Run>,
        /// The CRC-32 of each block's contents.
        crcs: Vec<u32>,
        /// How many more blocks the head maps than before.
        mapped: i64,
        freed: Vec<Run>,
    },
    /// A range became holes or zeroes.
    Fill { head: VersionId, lba: u64, blocks: u64, zero: bool, mapped: i64, freed: Vec<Run> },
    /// A new, empty volume.
    CreateVolume { head: VersionId, name: String, description: String, size: u64, created_ms: u64 },
    /// Snapshots of one or more volumes, all at this point of the log.
    Fork { forks: Vec<Fork>, description: String, automatic: bool, created_ms: u64 },
    /// A new volume from a snapshot.
    Clone {
        head: VersionId,
        from: VersionId,
        name: String,
        size: u64,
        created_ms: u64,
        origin: (String, String),
    },
    /// The head goes on from `to`; what it was becomes the snapshot `kept`.
    Rollback { head: VersionId, to: VersionId, kept: Fork, created_ms: u64 },
    /// These versions are deleted; their space is given back in the background.
    Delete { versions: Vec<VersionId> },
    /// The volume's new size.
    Resize { head: VersionId, size: u64 },
    /// The space of a deleted version was given back up to block `cursor` of its map.
    Reap { version: VersionId, cursor: u64, freed: Vec<Run>, nodes: Vec<BlockAddr> },
    /// Nothing of a deleted version is left.
    Reaped { version: VersionId },
    /// The pool has this many segments now.
    Grow { segments: u64 },
    /// An attribute of a version, or of the pool where `holder` is 0, got this value, or none.
    Attribute { holder: VersionId, key: String, value: Option<String> },
    /// A volume or snapshot is called and described like this now.
    Edit { version: VersionId, name: String, description: String },
}

/// One snapshot of a [`Record::Fork`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fork {
    pub(crate) head: VersionId,
    pub(crate) snapshot: VersionId,
    pub(crate) name: String,
}

const WRITE: u8 = 1;
const FILL: u8 = 2;
const CREATE_VOLUME: u8 = 3;
const FORK: u8 = 4;
const CLONE: u8 = 5;
const ROLLBACK: u8 = 6;
const DELETE: u8 = 7;
const RESIZE: u8 = 8;
const REAP: u8 = 9;
const REAPED: u8 = 10;
const GROW: u8 = 11;
const ATTRIBUTE: u8 = 12;
const EDIT: u8 = 13;

fn put_runs(w: &mut Writer, runs: &[Run]) {
    w.u32(runs.len() as u32);
    for run in runs {
        w.u40(run.start.0);
        w.u16(run.len as u16);
    }
}

fn get_runs(r: &mut Reader<'_>) -> Result<Vec<Run>> {
    let count = r.u32()?;
    let mut runs = Vec::new();
    for _ in 0..count {
        let run = Run { start: BlockAddr(r.u40()?), len: u32::from(r.u16()?) };
        if run.len == 0 {
            return Err(r.bad("an empty run"));
        }
        runs.push(run);
    }
    Ok(runs)
}

fn put_fork(w: &mut Writer, fork: &Fork) {
    w.u32(fork.head.0);
    w.u32(fork.snapshot.0);
    w.text(&fork.name);
}

fn get_fork(r: &mut Reader<'_>) -> Result<Fork> {
    Ok(Fork { head: VersionId(r.u32()?), snapshot: VersionId(r.u32()?), name: r.text()? })
}

impl Record {
    /// Appends the record: its kind, then its fields.
    pub(crate) fn encode(&self, w: &mut Writer) {
        match self {
            Record::Write { head, lba, epoch, runs, crcs, mapped, freed } => {
                w.u8(WRITE);
                w.u32(head.0);
                w.u40(*lba);
                w.u32(epoch.0);
                w.i64(*mapped);
                put_runs(w, runs);
                w.u16(crcs.len() as u16);
                for crc in crcs {
                    w.u32(*crc);
                }
                put_runs(w, freed);
            }
            Record::Fill { head, lba, blocks, zero, mapped, freed } => {
                w.u8(FILL);
                w.u32(head.0);
                w.u40(*lba);
                w.u64(*blocks);
                w.u8(u8::from(*zero));
                w.i64(*mapped);
                put_runs(w, freed);
            }
            Record::CreateVolume { head, name, description, size, created_ms } => {
                w.u8(CREATE_VOLUME);
                w.u32(head.0);
                w.text(name);
                w.text(description);
                w.u64(*size);
                w.u64(*created_ms);
            }
            Record::Fork { forks, description, automatic, created_ms } => {
                w.u8(FORK);
                w.u16(forks.len() as u16);
                for fork in forks {
                    put_fork(w, fork);
                }
                w.text(description);
                w.u8(u8::from(*automatic));
                w.u64(*created_ms);
            }
            Record::Clone { head, from, name, size, created_ms, origin } => {
                w.u8(CLONE);
                w.u32(head.0);
                w.u32(from.0);
                w.text(name);
                w.u64(*size);
                w.u64(*created_ms);
                w.text(&origin.0);
                w.text(&origin.1);
            }
            Record::Rollback { head, to, kept, created_ms } => {
                w.u8(ROLLBACK);
                w.u32(head.0);
                w.u32(to.0);
                put_fork(w, kept);
                w.u64(*created_ms);
            }
            Record::Delete { versions } => {
                w.u8(DELETE);
                w.u32(versions.len() as u32);
                for version in versions {
                    w.u32(version.0);
                }
            }
            Record::Resize { head, size } => {
                w.u8(RESIZE);
                w.u32(head.0);
                w.u64(*size);
            }
            Record::Reap { version, cursor, freed, nodes } => {
                w.u8(REAP);
                w.u32(version.0);
                w.u64(*cursor);
                put_runs(w, freed);
                w.u16(nodes.len() as u16);
                for node in nodes {
                    w.u40(node.0);
                }
            }
            Record::Reaped { version } => {
                w.u8(REAPED);
                w.u32(version.0);
            }
            Record::Grow { segments } => {
                w.u8(GROW);
                w.u64(*segments);
            }
            Record::Attribute { holder, key, value } => {
                w.u8(ATTRIBUTE);
                w.u32(holder.0);
                w.text(key);
                w.u8(u8::from(value.is_some()));
                if let Some(value) = value {
                    w.text(value);
                }
            }
            Record::Edit { version, name, description } => {
                w.u8(EDIT);
                w.u32(version.0);
                w.text(name);
                w.text(description);
            }
        }
    }

    /// Takes the next record off a batch.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Record> {
        Ok(match r.u8()? {
            WRITE => {
                let head = VersionId(r.u32()?);
                let lba = r.u40()?;
                let epoch = Epoch(r.u32()?);
                let mapped = r.i64()?;
                let runs = get_runs(r)?;
                let count = r.u16()?;
                let crcs = (0..count).map(|_| r.u32()).collect::<Result<Vec<u32>>>()?;
                let freed = get_runs(r)?;
                let blocks: u64 = runs.iter().map(|run| u64::from(run.len)).sum();
                if blocks != u64::from(count) || blocks == 0 || lba % 256 + blocks > 256 {
                    return Err(r.bad("a write whose blocks and checksums do not match"));
                }
                Record::Write { head, lba, epoch, runs, crcs, mapped, freed }
            }
            FILL => Record::Fill {
                head: VersionId(r.u32()?),
                lba: r.u40()?,
                blocks: r.u64()?,
                zero: r.u8()? != 0,
                mapped: r.i64()?,
                freed: get_runs(r)?,
            },
            CREATE_VOLUME => Record::CreateVolume {
                head: VersionId(r.u32()?),
                name: r.text()?,
                description: r.text()?,
                size: r.u64()?,
                created_ms: r.u64()?,
            },
            FORK => {
                let count = r.u16()?;
                let forks = (0..count).map(|_| get_fork(r)).collect::<Result<Vec<Fork>>>()?;
                Record::Fork { forks, description: r.text()?, automatic: r.u8()? != 0, created_ms: r.u64()? }
            }
            CLONE => Record::Clone {
                head: VersionId(r.u32()?),
                from: VersionId(r.u32()?),
                name: r.text()?,
                size: r.u64()?,
                created_ms: r.u64()?,
                origin: (r.text()?, r.text()?),
            },
            ROLLBACK => Record::Rollback {
                head: VersionId(r.u32()?),
                to: VersionId(r.u32()?),
                kept: get_fork(r)?,
                created_ms: r.u64()?,
            },
            DELETE => {
                let count = r.u32()?;
                let mut versions = Vec::new();
                for _ in 0..count {
                    versions.push(VersionId(r.u32()?));
                }
                Record::Delete { versions }
            }
            RESIZE => Record::Resize { head: VersionId(r.u32()?), size: r.u64()? },
            REAP => {
                let version = VersionId(r.u32()?);
                let cursor = r.u64()?;
                let freed = get_runs(r)?;
                let count = r.u16()?;
                let nodes = (0..count).map(|_| r.u40().map(BlockAddr)).collect::<Result<Vec<BlockAddr>>>()?;
                Record::Reap { version, cursor, freed, nodes }
            }
            REAPED => Record::Reaped { version: VersionId(r.u32()?) },
            GROW => Record::Grow { segments: r.u64()? },
            ATTRIBUTE => Record::Attribute {
                holder: VersionId(r.u32()?),
                key: r.text()?,
                value: if r.u8()? != 0 { Some(r.text()?) } else { None },
            },
            EDIT => Record::Edit { version: VersionId(r.u32()?), name: r.text()?, description: r.text()? },
            _ => return Err(r.bad("a record of unknown kind")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Record> {
        let run = Run { start: BlockAddr((1 << 40) - 1), len: 1 };
        let fork = Fork { head: VersionId(1), snapshot: VersionId(2), name: "s".into() };
        vec![
            Record::Write {
                head: VersionId(1),
                lba: (1 << 40) - 1,
                epoch: Epoch(3),
                runs: vec![run],
                crcs: vec![5],
                mapped: -4,
                freed: vec![run, run],
            },
            Record::Fill {
                head: VersionId(1),
                lba: 4,
                blocks: 1 << 40,
                zero: true,
                mapped: -7,
                freed: vec![run],
            },
            Record::CreateVolume {
                head: VersionId(9),
                name: "n".into(),
                description: "d".into(),
                size: 1 << 46,
                created_ms: 1,
            },
            Record::Fork {
                forks: vec![fork.clone()],
                description: "x".into(),
                automatic: true,
                created_ms: 2,
            },
            Record::Clone {
                head: VersionId(3),
                from: VersionId(2),
                name: "c".into(),
                size: 5,
                created_ms: 6,
                origin: ("v".into(), "s".into()),
            },
            Record::Rollback { head: VersionId(1), to: VersionId(2), kept: fork, created_ms: 3 },
            Record::Delete { versions: vec![VersionId(2), VersionId(3)] },
            Record::Resize { head: VersionId(1), size: 77 },
            Record::Reap {
                version: VersionId(2),
                cursor: 1 << 40,
                freed: vec![run],
                nodes: vec![BlockAddr(8)],
            },
            Record::Reaped { version: VersionId(2) },
            Record::Grow { segments: 12 },
            Record::Attribute { holder: VersionId(0), key: "k".into(), value: None },
            Record::Attribute { holder: VersionId(1), key: "k".into(), value: Some("v".into()) },
            Record::Edit { version: VersionId(1), name: "n".into(), description: "ä".into() },
        ]
    }

    #[test]
    fn every_record_reads_back_and_a_short_one_is_an_error() {
        for record in one_of_each() {
            let mut w = Writer::default();
            record.encode(&mut w);
            let bytes = w.into_bytes();
            let mut r = Reader::new(&bytes, "journal");
            assert_eq!(Record::decode(&mut r).unwrap(), record);
            assert!(r.is_empty());
            for cut in 0..bytes.len() {
                assert!(
                    Record::decode(&mut Reader::new(&bytes[..cut], "journal")).is_err(),
                    "{record:?} cut at {cut}"
                );
            }
        }
    }
}
