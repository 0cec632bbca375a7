//! Where the log goes, in which form, and how much of it.
//!
//! It goes to the standard error output. Where that leads into systemd's journal, lines begin with their priority, by
//! which `journalctl -p` tells them apart, and have no times, since the journal has its own (sd-daemon(3)).

use std::fmt;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// The log, once it is there.
pub struct Log {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl Log {
    /// Has what passes `filter` written. To be called once.
    pub fn start(filter: &str) -> Log {
        let (filter, handle) = reload::Layer::new(EnvFilter::new(filter));
        let lines = tracing_subscriber::fmt::layer()
            .with_ansi(io::stderr().is_terminal())
            .with_writer(io::stderr)
            .event_format(if is_journal() { Lines::journal() } else { Lines::plain() });
        tracing_subscriber::registry().with(filter).with(lines).init();
        Log { filter: handle }
    }

    /// Has another filter, which was checked, in force.
    pub(crate) fn set_filter(&self, filter: &str) {
        if let Err(error) = self.filter.reload(EnvFilter::new(filter)) {
            tracing::error!(%error, "the log keeps its filter");
        }
    }
}

/// Writes why the daemon ends, whether or not there is a log.
pub fn say_last_words(error: &str) {
    let text = format!("cairnd: {error}");
    eprintln!("{}", if is_journal() { with_priority(Level::ERROR, &text) } else { text });
}

/// Whether the standard error output is the journal's: it says of which file that is true (systemd.exec(5)), for the case
/// that the output was sent elsewhere since.
fn is_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    is_stream(&stream, io::stderr())
}

fn is_stream(stream: &str, output: impl AsFd) -> bool {
    fstat(output).is_ok_and(|file| stream == format!("{}:{}", file.st_dev, file.st_ino))
}

/// The text with the priority at the beginning of each line, every one of which is an entry of its own.
fn with_priority(level: Level, text: &str) -> String {
    // As syslog(3) numbers them.
    let priority = match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    };
    text.lines().map(|line| format!("<{priority}>{line}")).collect::<Vec<_>>().join("\n")
}

/// How an event becomes text.
enum Lines {
    Plain(Format<Full, SystemTime>),
    Journal(Format<Full, ()>),
}

impl Lines {
    fn plain() -> Lines {
        Lines::Plain(Format::default())
    }

    fn journal() -> Lines {
        Lines::Journal(Format::default().without_time().with_level(false))
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Lines::Plain(format) => format.format_event(context, writer, event),
            Lines::Journal(format) => {
                let mut text = String::new();
                format.format_event(context, Writer::new(&mut text), event)?;
                writeln!(writer, "{}", with_priority(*event.metadata().level(), &text))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::linux::fs::MetadataExt;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What an error, a warning and more look like.
    fn written(lines: Lines) -> String {
        let text = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&text);
        let layer = tracing_subscriber::fmt::layer()
            .with_ansi(false)
            .with_writer(move || To(Arc::clone(&writer)))
            .event_format(lines);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::error!(code = 5, "two\nlines");
            tracing::warn!("of\u{1b}interest");
            tracing::info!("said");
            tracing::debug!("detail");
        });
        String::from_utf8(text.lock().expect("no writer panics").clone()).expect("text")
    }

    struct To(Arc<Mutex<Vec<u8>>>);

    impl io::Write for To {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no writer panics").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_a_line_and_no_times() {
        let target = "cairnd::log::tests:";
        assert_eq!(
            written(Lines::journal()),
            format!(
                "<3>{target} two\n<3>lines code=5\n<4>{target} of\\x1binterest\n<6>{target} said\n<7>{target} detail\n"
            )
        );
    }

    #[test]
    fn others_get_times_and_levels() {
        let text = written(Lines::plain());
        let line = text.lines().find(|line| line.ends_with("said")).expect("a line");
        assert!(line.contains(" INFO ") && line.starts_with("20") && line.contains('T'), "{line}");
    }

    #[test]
    fn the_journal_is_known_by_its_file() {
        let file = tempfile::tempfile().expect("a file");
        let metadata = file.metadata().expect("metadata");
        let (dev, ino) = (metadata.st_dev(), metadata.st_ino());
        assert!(is_stream(&format!("{dev}:{ino}"), &file));
        assert!(!is_stream(&format!("{dev}:{}", ino + 1), &file), "it was sent elsewhere");
        assert!(!is_stream("", &file));
    }
}
