//! What people see: text without control sequences from outside, tables as wide as the terminal,
//! colours.

use std::io::{self, IsTerminal};

use crate::util::logging::is_plain;

/// Spaces between two columns.
const GAP: usize = 2;

/// How standard output is written to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Screen {
    /// Characters in a line; none: as many as a line has.
    width: Option<usize>,
    colour: bool,
}

impl Screen {
    /// Only a terminal has a width and colours: what is piped is always the same.
    pub(super) fn of_stdout(wide: bool) -> Self {
        if !io::stdout().is_terminal() {
            return Self::default();
        }
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let asked = set("COLUMNS").and_then(|columns| columns.parse().ok());
        let width = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|it| it.ws_col.into());
        Self {
            // Some terminals do not know their width and say 0.
            width: asked.or_else(width).filter(|width| *width > 0 && !wide),
            colour: set("NO_COLOR").is_none() && set("TERM").is_some_and(|term| term != "dumb"),
        }
    }
}

/// A colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    Bad = 31,
    Good = 32,
    Waits = 33,
}

impl Tone {
    /// That of a state, by its first word.
    fn of(state: &str) -> Option<Self> {
        match state.split([' ', ',', ':']).next()? {
            "active" | "clean" | "ok" => Some(Self::Good),
            "dead" | "failed" | "FAIL" => Some(Self::Bad),
            "deleting" | "waits" | "would" | "not" | "WARN" => Some(Self::Waits),
            _ => None,
        }
    }
}

/// Text for people. Its control sequences are ours: what is not plain in a text that is put in
/// becomes a question mark.
#[derive(Debug, Default)]
pub(crate) struct Text(String);

impl Text {
    pub(super) fn push(&mut self, text: &str) {
        self.0.extend(text.chars().map(|c| if is_plain(c) || c == '\n' { c } else { '?' }));
    }

    pub(super) fn push_text(&mut self, text: &Self) {
        self.0.push_str(&text.0);
    }

    pub(super) fn paint(&mut self, screen: Screen, tone: Option<Tone>, text: &str) {
        match tone.filter(|_| screen.colour) {
            Some(tone) => {
                self.0.push_str(&format!("\u{1b}[{}m", tone as u8));
                self.push(text);
                self.0.push_str("\u{1b}[0m");
            }
            None => self.push(text),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let mut clean = Self::default();
        clean.push(text);
        clean
    }
}

/// Left-aligned columns, two spaces apart, as kubectl prints them.
#[derive(Debug)]
pub(crate) struct Table {
    head: &'static [&'static str],
    /// Columns that a narrow terminal does not get, the first one first.
    spare: &'static [&'static str],
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(head: &'static [&'static str], spare: &'static [&'static str]) -> Self {
        Self { head, spare, rows: Vec::new() }
    }

    /// Adds a row. A name from outside begins no line of its own.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells.into_iter().map(|cell| cell.replace('\n', "?")).collect());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table, as wide as the screen if it can be: columns are left out, then cells folded.
    pub(crate) fn text(&self, screen: Screen) -> Text {
        let mut shown: Vec<(usize, usize)> =
            (0..self.head.len()).map(|at| (at, self.widest(at, chars))).collect();
        let mut hidden = Vec::new();
        if let Some(most) = screen.width {
            for spare in self.spare {
                if total(&shown) > most {
                    shown.retain(|(at, _)| self.head.get(*at) != Some(spare));
                    hidden.push(*spare);
                }
            }
            self.narrow(&mut shown, most);
        }
        let mut text = Text::default();
        let head: Vec<String> = self.head.iter().map(|head| (*head).to_owned()).collect();
        self.line(&mut text, screen, &head, &shown);
        for row in &self.rows {
            self.line(&mut text, screen, row, &shown);
        }
        if !hidden.is_empty() {
            text.push(&format!("not shown: {} (-o wide)\n", hidden.join(", ")));
        }
        text
    }

    /// The most of what `size` says of a column's cells.
    fn widest(&self, at: usize, size: fn(&str) -> usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(at));
        let head = self.head.get(at).map_or(0, |head| chars(head));
        cells.map(|cell| size(cell)).max().unwrap_or(0).max(head)
    }

    /// Takes from the widest columns until all fit, or have their longest words left.
    fn narrow(&self, shown: &mut [(usize, usize)], most: usize) {
        let least: Vec<usize> =
            shown.iter().map(|(at, _)| self.widest(*at, longest_word)).collect();
        while total(shown) > most {
            let can = shown.iter_mut().zip(&least).filter(|((_, width), least)| width > least);
            let Some(((_, width), _)) = can.max_by_key(|((_, width), _)| *width) else { return };
            *width -= 1;
        }
    }

    /// One row, in as many lines as its folded cells take.
    fn line(&self, text: &mut Text, screen: Screen, cells: &[String], shown: &[(usize, usize)]) {
        let cell = |at: usize| cells.get(at).map_or("", String::as_str);
        let folded: Vec<_> = shown.iter().map(|(at, width)| fold(cell(*at), *width)).collect();
        let lines = folded.iter().map(Vec::len).max().unwrap_or(0);
        for index in 0..lines {
            let mut gap = 0;
            for ((at, width), parts) in shown.iter().zip(&folded) {
                let part = parts.get(index).map_or("", |part| part.trim_end());
                if !part.is_empty() {
                    text.push(&" ".repeat(gap));
                    let is_state = matches!(self.head.get(*at), Some(&("" | "STATE")));
                    let tone = Tone::of(cell(*at)).filter(|_| is_state);
                    text.paint(screen, tone, part);
                    gap = 0;
                }
                gap += (width + GAP).saturating_sub(chars(part));
            }
            text.push("\n");
        }
    }
}

fn total(shown: &[(usize, usize)]) -> usize {
    let widths: usize = shown.iter().map(|(_, width)| width + GAP).sum();
    widths.saturating_sub(GAP)
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// A cell is folded at spaces and behind commas.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive([' ', ','])
}

fn longest_word(text: &str) -> usize {
    words(text).map(|word| chars(word.trim_end())).max().unwrap_or(0)
}

fn fold(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in words(text) {
        if !line.is_empty() && chars(&line) + chars(word.trim_end()) > width {
            lines.push(std::mem::take(&mut line));
        }
        line.push_str(word);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["POD", "MAC", "IP", "STATE"], &["MAC", "IP"]);
        let row = |pod: &str, state: &str| {
            ["default/", pod, "|02:00:00:00:00:01|10.1.2.3|", state].concat()
        };
        for row in [row("web", "dead"), row("\u{1b}[31m", "waits: will be judged again")] {
            table.row(row.split('|').map(str::to_owned).collect());
        }
        table
    }

    fn shown(width: Option<usize>, colour: bool) -> String {
        table().text(Screen { width, colour }).0
    }

    #[test]
    fn columns_are_left_out_by_rank_then_cells_are_folded() {
        let whole = "\
POD            MAC                IP        STATE
default/web    02:00:00:00:00:01  10.1.2.3  dead
default/?[31m  02:00:00:00:00:01  10.1.2.3  waits: will be judged again
";
        for width in [None, Some(71), Some(500)] {
            assert_eq!(shown(width, false), whole, "{width:?}");
        }
        let without_mac = "\
POD            IP        STATE
default/web    10.1.2.3  dead
default/?[31m  10.1.2.3  waits: will be judged again
not shown: MAC (-o wide)
";
        assert_eq!(shown(Some(70), false), without_mac);
        let folded = "\
POD            STATE
default/web    dead
default/?[31m  waits: will
               be judged
               again
not shown: MAC, IP (-o wide)
";
        assert_eq!(shown(Some(27), false), folded);
        // Narrower than its words it is not.
        let narrowest = shown(Some(21), false);
        assert_eq!(shown(Some(1), false), narrowest);
        assert!(narrowest.contains("waits:\n") && narrowest.contains("default/web    dead"));
    }

    #[test]
    fn a_name_begins_no_line() {
        let mut table = Table::new(&["POD"], &[]);
        table.row(vec!["a\nFAIL binary".to_owned()]);
        assert_eq!(table.text(Screen::default()).0, "POD\na?FAIL binary\n");
    }

    #[test]
    fn states_have_a_colour_and_nothing_else_has() {
        let text = shown(None, true);
        assert_eq!(text.matches('\u{1b}').count(), 4, "{text:?}");
        assert!(text.contains("  \u{1b}[31mdead\u{1b}[0m\n"), "{text:?}");
        assert!(text.contains("\u{1b}[33mwaits: will be judged again\u{1b}[0m\n"), "{text:?}");
        // As wide as without.
        assert_eq!(
            text.replace("\u{1b}[31m", "").replace("\u{1b}[33m", "").replace("\u{1b}[0m", ""),
            shown(None, false)
        );
    }

    /// Several columns give way, not one alone.
    #[test]
    fn the_widest_columns_are_folded() {
        let mut table = Table::new(&["", "FOUND", "WHAT TO DO"], &[]);
        let words = "one two three four five six seven eight nine ten";
        table.row(vec!["FAIL".to_owned(), words.to_owned(), words.to_owned()]);
        let text = table.text(Screen { width: Some(60), colour: false }).0;
        assert!(text.lines().all(|line| chars(line) <= 60), "{text}");
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
