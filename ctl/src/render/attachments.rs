//! Who uses a volume, for people.

use cairn_api::attachment::{Attachment, Consumer};
use comfy_table::Cell;

use super::{Look, count, left, right, table};

/// A consumer where there is little room: `fio (4211)`.
pub(super) fn brief(consumer: &Consumer) -> String {
    match consumer {
        Consumer::Process { pid, command: Some(command), .. } => format!("{command} ({pid})"),
        Consumer::Process { pid, command: None, .. } => format!("pid {pid}"),
        Consumer::Host { .. } | Consumer::Kernel { .. } => consumer.to_string(),
    }
}

/// One attachment in a line, its export left out.
pub(super) fn line(attachment: &Attachment, look: &Look) -> String {
    let Attachment { consumer, connections, since, .. } = attachment;
    format!("{consumer}, {}, since {}", count(*connections, "connection"), look.ago(*since))
}

/// Bytes in MiB, with one decimal: figures of one unit can be compared at a glance.
fn mib(bytes: u64) -> String {
    let tenths = (u128::from(bytes) * 10 + (1 << 19)) >> 20;
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// All uses of a volume and its snapshots as a table.
pub(crate) fn list(volume: &str, attachments: &[Attachment], look: &Look) -> String {
    if attachments.is_empty() {
        return format!("Nobody uses volume {volume} or its snapshots.\n");
    }
    let columns = [
        left("CONSUMER"),
        left("EXPORT"),
        left("SINCE"),
        right("CONNS"),
        right("READS"),
        right("WRITES"),
        right("MIB READ"),
        right("WRITTEN"),
    ];
    let rows = attachments.iter().map(|attachment| {
        vec![
            Cell::new(attachment.consumer.to_string()),
            Cell::new(&attachment.export),
            Cell::new(look.ago(attachment.since)),
            Cell::new(attachment.connections),
            Cell::new(attachment.reads),
            Cell::new(attachment.writes),
            Cell::new(mib(attachment.bytes_read)),
            Cell::new(mib(attachment.bytes_written)),
        ]
    });
    table(&columns, rows.collect(), look)
}

/// After attaching one, for scripts: the device and nothing else.
pub(crate) fn device(attachment: &Attachment) -> String {
    format!("{}\n", attachment.consumer)
}

/// After attaching one, for people.
pub(crate) fn attached(attachment: &Attachment) -> String {
    let Attachment { export, consumer, connections, .. } = attachment;
    format!("attached {export} to {consumer} ({})\n", count(*connections, "connection"))
}

/// After ending the use of an export, which was named by a device or by itself.
pub(crate) fn detached(export: &str, device: Option<&str>) -> String {
    match device {
        Some(device) => format!("detached {export} from {device}\n"),
        None => format!("detached {export}\n"),
    }
}

/// The users but the one that is the kernel's `device`.
pub(crate) fn others(users: &[Attachment], device: &str) -> String {
    let is_it = |a: &&Attachment| matches!(&a.consumer, Consumer::Kernel { device: d } if d == device);
    let names: Vec<_> = users.iter().filter(|a| !is_it(a)).map(|a| a.consumer.to_string()).collect();
    names.join(", ")
}

/// What to ask before forgetting all uses.
pub(crate) fn reset_question(volume: &str, users: &[Attachment]) -> String {
    let what = match users {
        [] => format!("Forget every use of volume {volume}, which nobody seems to use?"),
        [one] => format!("Forget that {} uses {}?", one.consumer, one.export),
        many => format!("Forget {} uses of volume {volume} and its snapshots?", many.len()),
    };
    format!("{what} Connections are cut.")
}

/// After forgetting all uses.
pub(crate) fn reset(volume: &str, left: &[Attachment]) -> String {
    match left {
        [] => format!("nobody uses volume {volume} any more\n"),
        some => format!("volume {volume} was reset; {} came back\n", count(some.len() as u64, "consumer")),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use super::super::testing::at;
    use super::*;

    pub(in super::super) fn fio() -> Attachment {
        Attachment {
            export: "demo".into(),
            consumer: Consumer::Process { uid: 1000, pid: 4211, command: Some("fio".into()) },
            since: at("2026-01-01T22:00:00Z"),
            connections: 4,
            reads: 1_000_000,
            writes: 77,
            flushes: 1,
            bytes_read: 4096 * 1_000_000,
            bytes_written: 1 << 19,
        }
    }

    pub(in super::super) fn kernel() -> Attachment {
        let consumer = Consumer::Kernel { device: "/dev/nbd0".into() };
        Attachment { export: "demo@s1".into(), consumer, connections: 1, ..fio() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{look, narrow};
    use super::testing::{fio, kernel};
    use super::*;

    #[test]
    fn a_list_is_a_table() {
        let qemu = Consumer::Process { uid: 107, pid: 51234, command: Some("qemu-system-x86".into()) };
        let all = [Attachment { consumer: qemu, ..fio() }, kernel()];
        assert_eq!(
            list("demo", &all, &look()),
            "\
CONSUMER                              EXPORT   SINCE        CONNS    READS  WRITES  MIB READ  WRITTEN
qemu-system-x86 (pid 51234, uid 107)  demo     2 hours ago      4  1000000      77    3906.3      0.5
/dev/nbd0                             demo@s1  2 hours ago      1  1000000      77    3906.3      0.5
"
        );
        assert_eq!(
            list("demo", &all, &narrow()),
            "\
CONSUMER         EXPORT   SINCE        CONNS    READS  WRITES  MIB READ  WRITTEN
qemu-system-x86  demo     2 hours ago      4  1000000      77    3906.3      0.5
(pid 51234, uid
107)
/dev/nbd0        demo@s1  2 hours ago      1  1000000      77    3906.3      0.5
"
        );
        assert_eq!(list("demo", &[], &look()), "Nobody uses volume demo or its snapshots.\n");
    }

    #[test]
    fn consumers_are_said_shortly() {
        assert_eq!(brief(&fio().consumer), "fio (4211)");
        assert_eq!(brief(&Consumer::Process { uid: 0, pid: 7, command: None }), "pid 7");
        assert_eq!(brief(&Consumer::Host { address: "192.0.2.7".into() }), "192.0.2.7");
        assert_eq!(brief(&kernel().consumer), "/dev/nbd0");
        assert_eq!(others(&[kernel(), fio()], "/dev/nbd0"), "fio (pid 4211, uid 1000)");
    }

    #[test]
    fn mib_have_one_decimal() {
        for (bytes, text) in [(0, "0.0"), (1 << 19, "0.5"), (1 << 20, "1.0"), (u64::MAX, "17592186044416.0")]
        {
            assert_eq!(mib(bytes), text);
        }
    }

    #[test]
    fn changes_say_what_they_did() {
        assert_eq!(device(&kernel()), "/dev/nbd0\n");
        assert_eq!(attached(&kernel()), "attached demo@s1 to /dev/nbd0 (1 connection)\n");
        assert_eq!(detached("demo", None), "detached demo\n");
        assert_eq!(detached("demo@s1", Some("/dev/nbd0")), "detached demo@s1 from /dev/nbd0\n");
        assert_eq!(
            reset_question("demo", &[kernel()]),
            "Forget that /dev/nbd0 uses demo@s1? Connections are cut."
        );
        assert_eq!(
            reset_question("demo", &[fio(), kernel()]),
            "Forget 2 uses of volume demo and its snapshots? Connections are cut."
        );
        assert_eq!(reset("demo", &[]), "nobody uses volume demo any more\n");
        assert_eq!(reset("demo", &[fio()]), "volume demo was reset; 1 consumer came back\n");
    }
}
