//! The one table that a run prints.

use std::fmt;
use std::time::Duration;

/// A figure: what it is, what was measured, and what it should be.
struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: String,
    target: String,
    met: bool,
}

/// All figures of a run.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
}

impl Table {
    /// Ours against theirs: ours may take so many times as long at most.
    pub(crate) fn at_most(&mut self, what: &str, ours: Duration, theirs: Duration, most: f64) {
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        self.push(Row {
            what: what.to_owned(),
            ours: ms(ours),
            theirs: ms(theirs),
            ratio: format!("{ratio:.2}"),
            target: format!("<= {most}"),
            met: ratio <= most,
        });
    }

    /// Theirs takes at least so many times as long as ours.
    pub(crate) fn faster(&mut self, what: &str, ours: Duration, theirs: Duration, least: f64) {
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        self.push(Row {
            what: what.to_owned(),
            ours: ms(ours),
            theirs: ms(theirs),
            ratio: format!("{ratio:.1} x faster"),
            target: format!(">= {least} x"),
            met: ratio >= least,
        });
    }

    /// A time that must not be longer than this.
    pub(crate) fn within(&mut self, what: &str, ours: Duration, most: Duration) {
        self.push(Row {
            what: what.to_owned(),
            ours: ms(ours),
            theirs: String::new(),
            ratio: String::new(),
            target: format!("<= {}", ms(most)),
            met: ours <= most,
        });
    }

    /// A time that nothing is promised of.
    pub(crate) fn told(&mut self, what: &str, ours: Duration) {
        self.push(Row {
            what: what.to_owned(),
            ours: ms(ours),
            theirs: String::new(),
            ratio: String::new(),
            target: String::new(),
            met: true,
        });
    }

    /// Ours against theirs, where nothing is promised of the ratio.
    pub(crate) fn beside(&mut self, what: &str, ours: Duration, theirs: Duration) {
        let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
        self.push(Row {
            what: what.to_owned(),
            ours: ms(ours),
            theirs: ms(theirs),
            ratio: format!("{ratio:.0} x faster"),
            target: String::new(),
            met: true,
        });
    }

    /// A share of one processor, which must be next to nothing.
    pub(crate) fn share(&mut self, what: &str, used: Duration, of: Duration, most: f64) {
        let share = used.as_secs_f64() / of.as_secs_f64() * 100.0;
        self.push(Row {
            what: what.to_owned(),
            ours: format!("{share:.3} %"),
            theirs: String::new(),
            ratio: String::new(),
            target: format!("<= {most} %"),
            met: share <= most,
        });
    }

    /// By how many bytes something has grown, or shrunk.
    pub(crate) fn grown(&mut self, what: &str, ours: f64, most: f64) {
        self.push(Row {
            what: what.to_owned(),
            ours: format!("{:+.2} MB", ours / 1e6),
            theirs: String::new(),
            ratio: String::new(),
            target: format!("<= {most} MB"),
            met: ours / 1e6 <= most,
        });
    }

    /// Memory that nothing is promised of.
    pub(crate) fn told_memory(&mut self, what: &str, ours: u64) {
        self.push(Row {
            what: what.to_owned(),
            ours: format!("{:.1} MB", ours as f64 / 1e6),
            theirs: String::new(),
            ratio: String::new(),
            target: String::new(),
            met: true,
        });
    }

    /// Peak memory, in bytes and megabytes of 10^6.
    pub(crate) fn memory(&mut self, what: &str, ours: u64, most: u64) {
        let megabytes = ours as f64 / 1e6;
        self.push(Row {
            what: what.to_owned(),
            ours: format!("{megabytes:.1} MB"),
            theirs: String::new(),
            ratio: String::new(),
            target: format!("<= {most} MB"),
            met: megabytes <= most as f64,
        });
    }

    /// Whether a figure is not what it should be.
    pub(crate) fn missed(&self) -> bool {
        self.rows.iter().any(|row| !row.met)
    }

    fn push(&mut self, row: Row) {
        eprintln!("{}: {} {} {}", row.what, row.ours, row.theirs, row.ratio);
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| figure | ours | theirs | ratio | target | met |")?;
        writeln!(f, "| --- | --: | --: | --: | --: | --- |")?;
        for Row { what, ours, theirs, ratio, target, met } in &self.rows {
            let met = if *met { "yes" } else { "NO" };
            writeln!(f, "| {what} | {ours} | {theirs} | {ratio} | {target} | {met} |")?;
        }
        Ok(())
    }
}

fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
