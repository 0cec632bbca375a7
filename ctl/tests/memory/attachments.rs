//! Who uses what, exclusively unless a volume is shared.

use cairn_api::attachment::*;
use cairn_api::error::{ApiError, ErrorCode};

use super::error;
use super::state::State;

/// `VOLUME` or `VOLUME@SNAPSHOT`.
pub(super) fn export(volume: &str, snapshot: Option<&str>) -> String {
    snapshot.map_or_else(|| volume.to_owned(), |snapshot| format!("{volume}@{snapshot}"))
}

impl State {
    /// See [`super::MemoryEngine::connect`].
    pub(super) fn connect(&mut self, volume: &str, connections: u64) {
        assert!(self.heads.contains_key(volume), "there is no volume {volume}");
        let consumer = Consumer::Process { uid: 1000, pid: 4211, command: Some("fio".into()) };
        self.attachments.retain(|a| a.export != volume || a.consumer != consumer);
        if connections > 0 {
            self.attachments.push(Attachment {
                export: volume.to_owned(),
                consumer,
                since: self.clock,
                connections,
                reads: 10,
                writes: 20,
                flushes: 3,
                bytes_read: 40960,
                bytes_written: 3 << 20,
            });
        }
    }

    /// The users of exactly this export.
    pub(super) fn users(&self, export: &str) -> Vec<Attachment> {
        self.attachments.iter().filter(|a| a.export == export).cloned().collect()
    }

    /// Fails when somebody uses this export.
    pub(super) fn idle(&self, export: &str) -> Result<(), ApiError> {
        if self.users(export).is_empty() {
            return Ok(());
        }
        let what = if export.contains('@') { "snapshot" } else { "volume" };
        Err(error(ErrorCode::Busy, format!("{what} {export:?} is in use")))
    }

    /// The users of a volume, then those of its snapshots.
    pub(super) fn all_users(&self, volume: &str) -> Result<AttachmentList, ApiError> {
        self.volume(volume)?;
        let prefix = format!("{volume}@");
        let mut attachments = self.users(volume);
        attachments.extend(self.attachments.iter().filter(|a| a.export.starts_with(&prefix)).cloned());
        Ok(AttachmentList { attachments })
    }

    pub(super) fn attach(&mut self, volume: &str, r: Attach) -> Result<Attachment, ApiError> {
        let shared = self.volume(volume)?.shared;
        if let Some(snapshot) = &r.snapshot {
            self.snapshot(volume, snapshot)?;
        } else if !shared {
            self.idle(volume)?;
        }
        let connections = r.connections.unwrap_or(2);
        if !(1..=16).contains(&connections) {
            return Err(error(ErrorCode::InvalidArgument, "1 to 16 connections are possible"));
        }
        let taken = |device: &str| {
            self.attachments
                .iter()
                .any(|a| matches!(&a.consumer, Consumer::Kernel { device: other } if other == device))
        };
        let device = match r.device {
            Some(device) if taken(&device) => {
                return Err(error(ErrorCode::Busy, format!("{device} is in use"))
                    .with_hint("leave the device out for a free one"));
            }
            Some(device) => device,
            None => (0..).map(|n| format!("/dev/nbd{n}")).find(|device| !taken(device)).expect("a device"),
        };
        let attachment = Attachment {
            export: export(volume, r.snapshot.as_deref()),
            consumer: Consumer::Kernel { device },
            since: self.clock,
            connections: connections.into(),
            reads: 0,
            writes: 0,
            flushes: 0,
            bytes_read: 0,
            bytes_written: 0,
        };
        self.attachments.push(attachment.clone());
        Ok(attachment)
    }

    pub(super) fn detach(
        &mut self,
        volume: &str,
        snapshot: Option<&str>,
    ) -> Result<AttachmentList, ApiError> {
        self.volume(volume)?;
        if let Some(snapshot) = snapshot {
            self.snapshot(volume, snapshot)?;
        }
        let export = export(volume, snapshot);
        self.attachments.retain(|a| a.export != export);
        self.all_users(volume)
    }

    pub(super) fn reset_attachments(&mut self, volume: &str) -> Result<AttachmentList, ApiError> {
        let gone = self.all_users(volume)?.attachments;
        self.attachments.retain(|a| !gone.contains(a));
        self.all_users(volume)
    }
}
