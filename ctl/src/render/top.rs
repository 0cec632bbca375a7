//! What volumes do, for people who look on.

use comfy_table::Cell;

use super::{Look, Tone, left, or_dash, right, table};
use crate::rates::{Rates, Sample};

/// What a line has beside the volume's name, gaps included.
const FIGURES: usize = 67;
/// The least that is shown of a name.
const LEAST_NAME: usize = 8;
/// Columns from which there is room to say who uses a volume.
const WIDE: u16 = 120;
/// The most that is shown of a name where there is room for consumers, too.
const MOST_NAME: usize = 32;

/// One sample: a line of sums, then a line a volume.
pub(crate) fn page(sample: &Sample, look: &Look) -> String {
    let sum = |figure: fn(&Rates) -> f64| sample.volumes.iter().map(figure).sum::<f64>();
    let summary = format!(
        "{}  {} requests/s  read {} MiB/s  written {} MiB/s",
        look.date(look.now, "%H:%M:%S"),
        count(sum(|rates| rates.iops)),
        mib(sum(|rates| rates.bytes_read)),
        mib(sum(|rates| rates.bytes_written)),
    );
    let wide = look.width.is_none_or(|width| width >= WIDE);
    let name_room = match look.width {
        None => usize::MAX,
        Some(_) if wide => MOST_NAME,
        Some(width) => usize::from(width).saturating_sub(FIGURES).max(LEAST_NAME),
    };
    let mut columns = vec![
        left("VOLUME"),
        right("IOPS"),
        right("R MIB/S"),
        right("W MIB/S"),
        right("MEAN"),
        right("P99"),
        right("QUEUE"),
        right("LIMITED"),
        right("CONNS"),
    ];
    columns.extend(wide.then(|| left("CONSUMER")));
    let longest = sample.volumes.iter().map(|rates| rates.volume.chars().count()).max().unwrap_or(0);
    let consumer_room = match look.width {
        None => usize::MAX,
        Some(width) => {
            usize::from(width).saturating_sub(FIGURES + 2 + longest.min(name_room)).max(LEAST_NAME)
        }
    };
    let row = |rates: &Rates| {
        let mut cells = vec![
            Cell::new(cut(&rates.volume, name_room, look)),
            Cell::new(count(rates.iops)),
            Cell::new(mib(rates.bytes_read)),
            Cell::new(mib(rates.bytes_written)),
            Cell::new(latency(rates.mean_us, look)),
            Cell::new(latency(rates.p99_us, look)),
            Cell::new(rates.queue()),
            limited(rates.limited),
            Cell::new(rates.connections),
        ];
        if wide {
            let consumers: Vec<_> = rates.consumers.iter().map(ToString::to_string).collect();
            cells.push(Cell::new(cut(or_dash(&consumers.join(", ")), consumer_room, look)));
        }
        cells
    };
    let rows = sample.volumes.iter().map(row).collect();
    format!("{summary}\n\n{}", table(&columns, rows, look))
}

/// A page drawn over the one before: what does not fit in so many lines is left out.
pub(crate) fn frame(page: &str, height: u16) -> String {
    let lines: Vec<&str> = page.lines().collect();
    // The last line is for the cursor.
    let fit = usize::from(height).saturating_sub(1);
    let drawn: String = lines.iter().take(fit).map(|line| format!("{line}\u{1b}[K\n")).collect();
    format!("\u{1b}[H{drawn}\u{1b}[J")
}

fn cut(text: &str, room: usize, look: &Look) -> String {
    if text.chars().count() <= room {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(room.saturating_sub(1)).collect();
    cut.push(if look.unicode { '…' } else { '~' });
    cut
}

/// Requests a second; few of them with a decimal.
fn count(a_second: f64) -> String {
    if a_second > 0.0 && a_second < 10.0 { format!("{a_second:.1}") } else { format!("{a_second:.0}") }
}

fn mib(bytes: f64) -> String {
    format!("{:.1}", bytes / f64::from(1 << 20))
}

/// Three digits and a unit.
fn latency(us: Option<f64>, look: &Look) -> String {
    let Some(us) = us else { return "-".to_owned() };
    let (value, unit) = match us {
        ..999.5 => (us, if look.unicode { "µs" } else { "us" }),
        ..999_500.0 => (us / 1e3, "ms"),
        _ => (us / 1e6, "s"),
    };
    let decimals = match value {
        ..9.995 => 2,
        ..99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

fn limited(share: f64) -> Cell {
    let cell = Cell::new(format!("{:.0} %", share * 100.0));
    if share > 0.0 { Tone::Warning.cell(cell) } else { cell }
}

#[cfg(test)]
mod tests {
    use cairn_api::attachment::Consumer;

    use super::super::testing::{look, narrow};
    use super::*;
    use crate::rates::testing::{did, stats, volume};

    fn sample() -> Sample {
        let mut busy = volume("web", 1);
        did(&mut busy.io.read, 15_360);
        (busy.qos_waits, busy.qos_waiting, busy.in_flight, busy.connections) = (7_680, 3, 1, 2);
        busy.consumers = vec![Consumer::Process { uid: 1000, pid: 4211, command: Some("fio".into()) }];
        let long = volume(&"a-rather-long-name-".repeat(4), 2);
        Sample::between(&stats(0, Vec::new()), &stats(1_000_000, vec![busy, long]))
    }

    #[test]
    fn volumes_are_lines() {
        let text = page(&sample(), &look());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "00:00:00  15360 requests/s  read 60.0 MiB/s  written 0.0 MiB/s");
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        assert_eq!(words(lines[2]), "VOLUME IOPS R MIB/S W MIB/S MEAN P99 QUEUE LIMITED CONNS CONSUMER");
        assert_eq!(words(lines[3]), "web 15360 60.0 0.0 24.0 µs 31.8 µs 4 50 % 2 fio (pid 4211, uid 1000)");
        assert!(words(lines[4]).ends_with("name- 0 0.0 0.0 - - 0 0 % 0 -"), "{text}");
    }

    #[test]
    fn pages_fit_80_and_160_columns_without_wrapping() {
        let mut sample = sample();
        // The widest that figures get.
        let rates = &mut sample.volumes[0];
        (rates.iops, rates.bytes_read, rates.bytes_written) = (999_999.0, 12e9, 12e9);
        (rates.mean_us, rates.p99_us, rates.limited) = (Some(99_940.0), Some(16_777_216.0), 1.0);
        (rates.in_flight, rates.connections) = (99_000, 10_000);
        for width in [80, 160] {
            let text = page(&sample, &Look { width: Some(width), ..narrow() });
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{width}:\n{text}");
            assert_eq!(text.lines().count(), 5, "a line a volume at {width}:\n{text}");
            assert_eq!(text.contains("CONSUMER"), width == 160, "{text}");
            assert!(text.contains('…'), "{text}");
        }
    }

    #[test]
    fn frames_are_drawn_over_each_other_and_never_scroll() {
        let shown = frame("a\nb\nc\n", 3);
        assert_eq!(shown, "\u{1b}[Ha\u{1b}[K\nb\u{1b}[K\n\u{1b}[J");
        assert_eq!(frame("a\n", 24), "\u{1b}[Ha\u{1b}[K\n\u{1b}[J");
    }

    #[test]
    fn latencies_have_three_digits() {
        let text = |us| latency(Some(us), &look());
        for (us, shown) in [
            (4.5, "4.50 µs"),
            (24.0, "24.0 µs"),
            (999.6, "1.00 ms"),
            (99_960.0, "100 ms"),
            (16_777_216.0, "16.8 s"),
        ] {
            assert_eq!(text(us), shown);
        }
        assert_eq!(latency(Some(1.0), &Look { unicode: false, ..look() }), "1.00 us");
    }
}
