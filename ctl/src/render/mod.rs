//! Text for people: tables, lists of fields, sizes and times. Nothing here prints; everything returns text.

pub(crate) mod access;
pub(crate) mod attachments;
pub(crate) mod backups;
pub(crate) mod events;
pub(crate) mod images;
pub(crate) mod jobs;
pub(crate) mod pool;
pub(crate) mod qos;
pub(crate) mod recycle;
pub(crate) mod repos;
pub(crate) mod snapshots;
pub(crate) mod top;
pub(crate) mod tree;
pub(crate) mod types;
pub(crate) mod volumes;

use anstyle::{AnsiColor, Style};
use cairn_api::report::count;
use cairn_api::tags::Tags;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// How text looks here and now.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Columns of the terminal; none for a pipe, where nothing is wrapped.
    pub(crate) width: Option<u16>,
    /// Whether colours may be used.
    pub(crate) colour: bool,
    /// Whether anything beyond ASCII may be used.
    pub(crate) unicode: bool,
    /// The time that "ago" refers to.
    pub(crate) now: Timestamp,
    /// The zone that times are shown in.
    pub(crate) zone: TimeZone,
}

/// What a piece of text says about the state of things.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tone {
    Good,
    Active,
    Warning,
    Bad,
    Faint,
    Strong,
}

impl Tone {
    fn style(self) -> Style {
        match self {
            Tone::Good => AnsiColor::Green.on_default(),
            Tone::Active => AnsiColor::Cyan.on_default(),
            Tone::Warning => AnsiColor::Yellow.on_default().bold(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
        }
    }

    fn cell(self, cell: Cell) -> Cell {
        use comfy_table::{Attribute, Color};
        // comfy-table's dark colours are the plain ones that anstyle names without an adjective.
        match self {
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Active => cell.fg(Color::DarkCyan),
            Tone::Warning => cell.fg(Color::DarkYellow).add_attribute(Attribute::Bold),
            Tone::Bad => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
            Tone::Strong => cell.add_attribute(Attribute::Bold),
        }
    }
}

impl Look {
    /// `text` in the colour of `tone`, where colours may be used.
    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let style = tone.style();
        format!("{style}{text}{style:#}")
    }

    /// How long ago, for lists: `5 minutes ago`; a date when that is long.
    pub(crate) fn ago(&self, then: Timestamp) -> String {
        let seconds = self.now.as_second().saturating_sub(then.as_second());
        let (count, unit) = match seconds {
            ..-1 => return self.date(then, "%Y-%m-%d %H:%M"),
            -1..5 => return "just now".to_owned(),
            5..60 => (seconds, "second"),
            60..3_600 => (seconds / 60, "minute"),
            3_600..86_400 => (seconds / 3_600, "hour"),
            86_400..2_592_000 => (seconds / 86_400, "day"),
            _ => return self.date(then, "%Y-%m-%d"),
        };
        let plural = if count == 1 { "" } else { "s" };
        format!("{count} {unit}{plural} ago")
    }

    /// When exactly and how long ago, for details.
    pub(crate) fn when(&self, then: Timestamp) -> String {
        format!("{} ({})", self.date(then, "%Y-%m-%d %H:%M:%S %Z"), self.ago(then))
    }

    pub(crate) fn date(&self, then: Timestamp, format: &str) -> String {
        then.to_zoned(self.zone.clone()).strftime(format).to_string()
    }
}

/// Tags in a cell.
fn tags(tags: &Tags) -> String {
    let pairs: Vec<_> = tags.iter().map(|(key, value)| pair(key, value)).collect();
    pairs.join(" ")
}

fn pair(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }
}

/// Tags as fields, each on a line.
fn tag_lines(tags: &Tags) -> impl Iterator<Item = (&'static str, String)> {
    tags.iter().map(|(key, value)| ("tag", pair(key, value)))
}

/// What to say below a list of which this was not the end.
fn more(next: Option<&str>) -> String {
    next.map_or_else(String::new, |next| format!("There are more: --after {next}\n"))
}

/// A column's heading, and which way its cells are aligned.
#[derive(Clone, Copy)]
struct Column {
    heading: &'static str,
    alignment: CellAlignment,
    /// Whether it may be left out on a narrow terminal: what can be spared most has the largest number, 0 stays.
    spare: u8,
}

impl Column {
    /// The same, to be left out before those of smaller numbers where there is no room.
    fn spare(self, spare: u8) -> Column {
        Column { spare, ..self }
    }
}

fn left(heading: &'static str) -> Column {
    Column { heading, alignment: CellAlignment::Left, spare: 0 }
}

fn right(heading: &'static str) -> Column {
    Column { heading, alignment: CellAlignment::Right, spare: 0 }
}

/// Blanks between columns.
const GAP: u16 = 2;

/// Leaves out what can be spared until the rest fits, if it can. Returns which columns were left out.
fn make_room(columns: &mut Vec<Column>, rows: &mut [Vec<Cell>], width: u16) -> Vec<&'static str> {
    let widest = |at: usize, heading: &str, rows: &[Vec<Cell>]| {
        let cells = rows.iter().map(|row| row[at].content().chars().count());
        cells.chain([heading.len()]).max().unwrap_or(0)
    };
    let mut left_out = Vec::new();
    loop {
        let widths = columns.iter().enumerate().map(|(at, column)| widest(at, column.heading, rows));
        let whole = widths.sum::<usize>() + usize::from(GAP) * columns.len().saturating_sub(1);
        let most = columns.iter().enumerate().filter(|(_, column)| column.spare > 0);
        let Some((at, _)) = most.max_by_key(|(_, column)| column.spare) else { return left_out };
        if whole <= usize::from(width) {
            return left_out;
        }
        left_out.push(columns.remove(at).heading);
        for row in &mut *rows {
            row.remove(at);
        }
    }
}

/// A table without lines: columns two blanks apart, no blanks at the ends of lines. What has no room is left out, and said
/// to be.
fn table(columns: &[Column], mut rows: Vec<Vec<Cell>>, look: &Look) -> String {
    let mut columns = columns.to_vec();
    let left_out = look.width.map_or(Vec::new(), |width| make_room(&mut columns, &mut rows, width));
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Colours and width are this program's decision, made once for all its output.
    if look.colour {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    match look.width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.set_header(columns.iter().map(|c| Tone::Strong.cell(Cell::new(c.heading))).collect::<Vec<_>>());
    table.add_rows(rows);
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if at + 1 == columns.len() { 0 } else { GAP }));
        column.set_cell_alignment(columns[at].alignment);
        // Text may be wrapped, a figure may not.
        if columns[at].alignment == CellAlignment::Right {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    if !left_out.is_empty() {
        let what = format!("left out: {} (--json has all)", left_out.join(", "));
        text += &look.paint(Tone::Faint, &what);
        text.push('\n');
    }
    text
}

/// One field a line: names to the left, values in one column.
fn fields(fields: &[(&str, String)], look: &Look) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    fields
        .iter()
        .map(|(name, value)| {
            let gap = " ".repeat(width - name.len());
            format!("{}{gap}{value}\n", look.paint(Tone::Faint, name))
        })
        .collect()
}

/// What is not there, in a table.
fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// As a terminal of 80 columns without colours shows it.
    pub(crate) fn narrow() -> Look {
        Look { width: Some(80), ..look() }
    }

    /// 2026-01-02 00:00 UTC, as a pipe shows it.
    pub(crate) fn look() -> Look {
        Look {
            width: None,
            colour: false,
            unicode: true,
            now: "2026-01-02T00:00:00Z".parse().expect("a time"),
            zone: TimeZone::UTC,
        }
    }

    pub(crate) fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{at, look};
    use super::*;

    #[test]
    fn times_read_as_people_say_them() {
        for (then, text) in [
            ("2026-01-02T00:00:00Z", "just now"),
            ("2026-01-01T23:59:48Z", "12 seconds ago"),
            ("2026-01-01T23:59:00Z", "1 minute ago"),
            ("2026-01-01T23:01:01Z", "58 minutes ago"),
            ("2026-01-01T22:00:00Z", "2 hours ago"),
            ("2026-01-01T00:00:00Z", "1 day ago"),
            ("2025-12-04T00:00:00Z", "29 days ago"),
            ("2025-12-03T00:00:00Z", "2025-12-03"),
            ("2026-01-02T01:00:00Z", "2026-01-02 01:00"),
        ] {
            assert_eq!(look().ago(at(then)), text, "{then}");
        }
        assert_eq!(look().when(at("2026-01-01T22:00:00Z")), "2026-01-01 22:00:00 UTC (2 hours ago)");
    }

    #[test]
    fn colours_only_where_asked_for() {
        assert_eq!(look().paint(Tone::Good, "x"), "x");
        let coloured = Look { colour: true, ..look() };
        assert_eq!(coloured.paint(Tone::Good, "x"), "\u{1b}[32mx\u{1b}[0m");
        let columns = [left("A"), right("B")];
        let row = || vec![vec![Tone::Bad.cell(Cell::new("bad")), Cell::new("1")]];
        assert!(!table(&columns, row(), &look()).contains('\u{1b}'));
        assert!(table(&columns, row(), &coloured).contains('\u{1b}'));
    }

    #[test]
    fn tables_fit_the_terminal_and_are_never_cut_in_a_pipe() {
        let columns = [left("NAME"), left("TEXT")];
        let words = "several words that need room ".repeat(8);
        let rows = || vec![vec![Cell::new("a"), Cell::new(words.trim())]];
        let wide = table(&columns, rows(), &look());
        assert_eq!(wide.lines().count(), 2);
        let narrow = table(&columns, rows(), &Look { width: Some(40), ..look() });
        assert!(narrow.lines().count() > 2);
        assert!(narrow.lines().all(|line| line.chars().count() <= 40), "{narrow}");
    }

    #[test]
    fn what_can_be_spared_gives_way_and_is_named() {
        let columns = [left("NAME"), left("STATUS").spare(1), right("N").spare(3), left("TAGS").spare(2)];
        let rows = || vec![["a-long-name", "available", "12345", "k=v"].map(Cell::new).to_vec()];
        let at = |width| table(&columns, rows(), &Look { width: Some(width), ..look() });
        assert_eq!(at(35), "NAME         STATUS         N  TAGS\na-long-name  available  12345  k=v\n");
        assert_eq!(
            at(34),
            "NAME         STATUS     TAGS\na-long-name  available  k=v\n\
             left out: N (--json has all)\n"
        );
        let least = "NAME\na-long-name\nleft out: N, TAGS, STATUS (--json has all)\n";
        assert_eq!(at(12), least);
        assert_eq!(table(&columns, rows(), &look()).lines().count(), 2, "a pipe has room for all");
    }

    #[test]
    fn fields_line_up() {
        let text = fields(&[("a", "1".into()), ("long name", "2".into())], &look());
        assert_eq!(text, "a          1\nlong name  2\n");
    }
}
