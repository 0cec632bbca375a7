//! What volumes do, looked at again and again.

use cairn_api::path;
use cairn_api::stats::Stats;
use jiff::Timestamp;
use tokio::time::{Instant, sleep_until};

use crate::args;
use crate::client::{Client, Wait};
use crate::failure::Failure;
use crate::output::Output;
use crate::rates::Sample;
use crate::render::{Look, top};

const HIDE_CURSOR: &str = "\u{1b}[?25l";
const SHOW_CURSOR: &str = "\u{1b}[?25h";
const CLEAR: &str = "\u{1b}[2J";

pub(super) async fn run(asked: args::Top, client: &Client, output: &Output) -> Result<(), Failure> {
    super::until_interrupted(async {
        // Whichever way it ends, the cursor is given back.
        let _screen = Screen::take(output)?;
        watch(&asked, client, output).await
    })
    .await
}

async fn watch(asked: &args::Top, client: &Client, output: &Output) -> Result<(), Failure> {
    let look = async || Ok::<_, Failure>(client.get::<Stats>(path::STATS, Wait::Short).await?.value);
    let (mut before, mut due) = (look().await?, Instant::now());
    for shown in 0.. {
        if asked.count == Some(shown) {
            break;
        }
        // By the clock, not after the last one was shown; a machine that was asleep makes up for nothing.
        due = (due + asked.interval).max(Instant::now());
        sleep_until(due).await;
        let now = look().await?;
        let mut sample = Sample::between(&before, &now);
        sample.sort(asked.sort);
        show(&sample, shown == 0, output)?;
        before = now;
    }
    Ok(())
}

fn show(sample: &Sample, first: bool, output: &Output) -> Result<(), Failure> {
    let now = Timestamp::now();
    if output.json {
        let mut json = serde_json::to_value(sample).unwrap_or_default();
        json["time"] = now.to_string().into();
        return output.print(&format!("{json}\n"));
    }
    if !output.terminal {
        let gap = if first { "" } else { "\n" };
        return output.print(&format!("{gap}{}", top::page(sample, &Look { now, ..output.look.clone() })));
    }
    // It may have been resized.
    let (width, height) =
        terminal_size::terminal_size().map_or((80, 24), |(width, height)| (width.0, height.0));
    let look = Look { now, width: Some(width), ..output.look.clone() };
    output.print(&top::frame(&top::page(sample, &look), height))
}

/// The terminal, while it is drawn on.
struct Screen<'a>(Option<&'a Output>);

impl Screen<'_> {
    fn take(output: &Output) -> Result<Screen<'_>, Failure> {
        if output.json || !output.terminal {
            return Ok(Screen(None));
        }
        output.print(&format!("{HIDE_CURSOR}{CLEAR}"))?;
        Ok(Screen(Some(output)))
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        if let Some(output) = self.0 {
            // A terminal that is gone has no cursor.
            let _ = output.print(SHOW_CURSOR);
        }
    }
}
