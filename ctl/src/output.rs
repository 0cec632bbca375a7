//! Where the output goes: a terminal or a pipe, people or programs.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::client::Answer;
use crate::failure::Failure;
use crate::render::Look;

/// How this run prints.
pub(crate) struct Output {
    /// JSON instead of text for people.
    pub(crate) json: bool,
    /// Whether it goes to a terminal, where people read it, and not to a pipe or a file.
    pub(crate) terminal: bool,
    /// How text for people looks.
    pub(crate) look: Look,
}

impl Output {
    /// Looks at the terminal, the clock and the environment.
    pub(crate) fn detect(json: bool) -> Output {
        let terminal = io::stdout().is_terminal();
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let plain = set("NO_COLOR").is_some() || set("TERM").as_deref() == Some("dumb");
        // What cannot be told is taken as UTF-8; only a locale that says otherwise is believed.
        let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
        let unicode = locale.is_none_or(|name| {
            let name = name.to_ascii_lowercase();
            name.contains("utf-8") || name.contains("utf8")
        });
        let width = if terminal { terminal_size::terminal_size().map(|(width, _)| width.0) } else { None };
        let look = Look {
            width,
            colour: terminal && !plain,
            unicode,
            now: Timestamp::now(),
            zone: TimeZone::system(),
        };
        Output { json, terminal, look }
    }

    /// Prints text that ends its own lines.
    pub(crate) fn print(&self, text: &str) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(Failure::PipeClosed),
            Err(e) => Err(Failure::local("io", format!("cannot write the output: {e}"))),
        }
    }

    /// Prints an answer: as it came, or as `people` read it.
    pub(crate) fn answer<T>(
        &self,
        answer: &Answer<T>,
        people: impl FnOnce(&T, &Look) -> String,
    ) -> Result<(), Failure> {
        if self.json {
            return self.print(&format!("{}\n", String::from_utf8_lossy(&answer.raw)));
        }
        self.print(&people(&answer.value, &self.look))
    }

    /// Prints what this process has found out itself: as JSON, or as people read it.
    pub(crate) fn either(
        &self,
        json: impl FnOnce() -> serde_json::Value,
        people: String,
    ) -> Result<(), Failure> {
        if self.json { self.print(&format!("{}\n", json())) } else { self.print(&people) }
    }

    /// Says something that is not what was asked for.
    pub(crate) fn note(&self, text: &str) -> Result<(), Failure> {
        writeln!(io::stderr(), "note: {text}").map_err(|e| Failure::local("io", format!("cannot write: {e}")))
    }

    /// Shows on a terminal that something is under way, until dropped.
    pub(crate) fn spin(&self, message: &'static str) -> Spinner {
        // indicatif draws on stderr, and not at all when that is no terminal.
        let bar = ProgressBar::new_spinner().with_message(message);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Spinner(bar)
    }

    /// Shows on a terminal how far work on so many bytes is, until dropped.
    pub(crate) fn bar(&self, message: &'static str, total: impl Into<Option<u64>>) -> Bar {
        let bar = ProgressBar::no_length().with_message(message);
        if self.json {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        let bar = Bar(bar);
        match total.into() {
            Some(total) => bar.know(total),
            None => bar.style("{spinner} {msg}  {bytes} ({elapsed})"),
        }
        bar
    }

    /// Asks before something that cannot be undone, unless `yes` was said beforehand.
    pub(crate) fn confirm(&self, question: &str, yes: bool) -> Result<(), Failure> {
        if yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Failure::local(
                "not-confirmed",
                "this needs a confirmation, and there is no terminal to ask on",
            )
            .with_hint("add --yes"));
        }
        // A prompt that cannot be shown is answered like any other: by what is typed, and by default with no.
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let mut answer = String::new();
        io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|e| Failure::local("io", format!("cannot read the answer: {e}")))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::local("not-confirmed", "nothing was done")),
        }
    }
}

/// See [`Output::bar`].
pub(crate) struct Bar(ProgressBar);

impl Bar {
    /// So many bytes are done, of so many where that is known.
    pub(crate) fn show(&self, done: u64, total: impl Into<Option<u64>>) {
        if let Some(total) = total.into().filter(|total| self.0.length() != Some(*total)) {
            self.know(total);
        }
        self.0.set_position(done);
    }

    fn know(&self, total: u64) {
        if self.0.length().is_none() {
            self.style("{msg} {bar:24} {percent:>3}%  {bytes} of {total_bytes}  {bytes_per_sec}  {eta} left");
        }
        self.0.set_length(total);
    }

    fn style(&self, template: &str) {
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.0.set_style(style.progress_chars("=> "));
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// See [`Output::spin`].
pub(crate) struct Spinner(ProgressBar);

impl Drop for Spinner {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
