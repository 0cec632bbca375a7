//! Events for people.

use cairn_api::event::{Event, EventList, Severity};

use super::{Look, Tone};

/// One event a line.
pub(crate) fn line(event: &Event, look: &Look) -> String {
    let Event { time, kind, severity, message, .. } = event;
    let tone = match severity {
        Severity::Info => Tone::Faint,
        Severity::Warning => Tone::Warning,
        Severity::Error => Tone::Bad,
    };
    // Before it is coloured, since colours have a length, too.
    let kind = look.paint(tone, &format!("{:<19}", kind.as_str()));
    format!("{}  {kind}  {message}\n", look.date(*time, "%Y-%m-%d %H:%M:%S"))
}

/// What happened lately.
pub(crate) fn list(list: &EventList, look: &Look) -> String {
    if list.events.is_empty() {
        return "Nothing of that has happened since the daemon started.\n".to_owned();
    }
    let lost = if list.gap { "some events in between are forgotten\n" } else { "" };
    let lines: String = list.events.iter().map(|event| line(event, look)).collect();
    format!("{lost}{lines}")
}

#[cfg(test)]
mod tests {
    use cairn_api::event::EventKind;

    use super::super::testing::{at, look};
    use super::*;

    #[test]
    fn events_are_lines() {
        let event = Event {
            id: 7,
            time: at("2026-01-01T22:00:00Z"),
            kind: EventKind::VolumeCreated,
            severity: Severity::Info,
            volume: Some("demo".into()),
            project: None,
            snapshot: None,
            name: None,
            job: None,
            message: "volume demo (10.0 GiB) is there".into(),
        };
        let fenced = Event { kind: EventKind::PoolFenced, severity: Severity::Error, ..event.clone() };
        let page = EventList { events: vec![event, fenced], last: 8, gap: true };
        assert_eq!(
            list(&page, &look()),
            "\
some events in between are forgotten
2026-01-01 22:00:00  volume.created       volume demo (10.0 GiB) is there
2026-01-01 22:00:00  pool.fenced          volume demo (10.0 GiB) is there
"
        );
        let coloured = Look { colour: true, ..look() };
        assert!(line(&page.events[1], &coloured).contains("31mpool.fenced        \u{1b}[0m  volume"));
        assert!(list(&EventList { events: Vec::new(), ..page }, &look()).starts_with("Nothing of that"));
    }
}
