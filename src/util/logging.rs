//! Logging: one line per event to stderr or to a file, never to stdout, which carries the
//! CNI result and nothing else. Rotation is the operator's job: the file is opened once
//! and appended to, so `copytruncate` is the way.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use nix::fcntl::OFlag;

use crate::util::clock::{BootTime, Stamp, Utc};

/// How a line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Time, level, message.
    #[default]
    Text,
    /// An object with `time`, `level` and `message`.
    Json,
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("not text, nor json"),
        }
    }
}

static IS_JSON: AtomicBool = AtomicBool::new(false);

/// How each line looks from now on.
pub fn set_format(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// Starts logging at `level` to `file` (appended to, created 0600), or to stderr if there
/// is none or it cannot be opened; the latter is warned of. A second call only changes the
/// level.
pub fn init(level: LevelFilter, file: Option<&Path>) {
    let opened = file.map(|path| (path, open(path)));
    let (file, failure) = match opened {
        None => (None, None),
        Some((_, Ok(file))) => (Some(file), None),
        Some((path, Err(error))) => (None, Some((path, error))),
    };
    let first = log::set_boxed_logger(Box::new(Lines { file })).is_ok();
    log::set_max_level(level);
    if let (true, Some((path, error))) = (first, failure) {
        log::warn!("cannot open log file {}: {error}; logging to stderr", path.display());
    }
}

/// Never blocks: without `O_NONBLOCK` a FIFO that nobody reads would hang the plugin.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path)
}

/// The level at which libraries speak, at most.
const LIBRARIES: LevelFilter = LevelFilter::Info;

struct Lines {
    /// `None`: stderr.
    file: Option<File>,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What libraries have to say of each frame is for those who ask for all there is.
        let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
        let most = log::max_level();
        metadata.level()
            <= if ours || most == LevelFilter::Trace { most } else { most.min(LIBRARIES) }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let line = event(record.level(), &record.args().to_string());
        // One write per line: with O_APPEND, lines of many processes do not mix.
        if let Some(mut file) = self.file.as_ref() {
            // A full disk is the classic cause of evictions: stderr is better than nothing.
            if file.write_all(line.as_bytes()).is_ok() {
                return;
            }
        }
        // A runtime may have closed stderr; then the line is lost.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }

    fn flush(&self) {}
}

/// What is said of many things, one line each. In a minute the first few are said at the usual level
/// and the others counted; those are said at debug. A storm often comes with a full disk, and is a
/// handful of lines.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Often {
    /// A pod is dead.
    Dead,
    /// Entries of a pod were deleted.
    Deleted,
    /// Entries of a pod are not deleted, by intention.
    Withheld,
    /// An entry's evidence changed before the commit.
    PutOff,
    /// An entry was put anew while it was being deleted.
    PutBack,
    /// What a person should know of a pod.
    Note,
}

static OFTEN: [Repeated; 6] = [
    Repeated::new("pods are dead"),
    Repeated::new("pods had entries that are deleted"),
    Repeated::new("pods have entries that are not deleted"),
    Repeated::new("entries are kept for now"),
    Repeated::new("entries were put back at once"),
    Repeated::new("notes"),
];

impl Often {
    pub(crate) fn say(self, line: &dyn std::fmt::Display) {
        let Some(lines) = OFTEN.get(self as usize) else { return };
        let (more, level) = lines.next(BootTime::now());
        lines.say_more(more);
        log::log!(level, "{line}");
    }

    /// Says how many lines were not said. `ends`: no other call will come; else of those whose
    /// minute is over.
    pub(crate) fn say_rest(ends: bool) {
        for lines in &OFTEN {
            lines.say_more(lines.rest(BootTime::now(), ends));
        }
    }
}

/// The lines of one kind.
struct Repeated {
    /// Behind the number of those that were not said.
    of: &'static str,
    /// Since when they are counted, and how many there were.
    counted: Mutex<Option<(BootTime, usize)>>,
}

impl Repeated {
    /// So many lines a minute.
    const MOST: usize = 5;
    const MINUTE: Duration = Duration::from_secs(60);

    const fn new(of: &'static str) -> Self {
        Self { of, counted: Mutex::new(None) }
    }

    /// Takes one more line: how many were not said in the time before, and the level of this one.
    fn next(&self, now: BootTime) -> (usize, Level) {
        let more = self.rest(now, false);
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, lines) = counted.get_or_insert((now, 0));
        *lines = lines.saturating_add(1);
        (more, if *lines > Self::MOST { Level::Debug } else { Level::Info })
    }

    fn rest(&self, now: BootTime, ends: bool) -> usize {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let over = counted.take_if(|(since, _)| ends || since.until(now) >= Self::MINUTE);
        over.map_or(0, |(_, lines)| lines.saturating_sub(Self::MOST))
    }

    fn say_more(&self, more: usize) {
        if more > 0 {
            log::info!("{more} more {} (the log level debug names each)", self.of);
        }
    }
}

/// One event is one line.
pub(crate) fn event(level: Level, message: &str) -> String {
    let format = if is_json() { Format::Json } else { Format::Text };
    line(format, Stamp::now(), level, message)
}

/// Whether lines are JSON.
pub(crate) fn is_json() -> bool {
    IS_JSON.load(Ordering::Relaxed)
}

/// Names come from outside: they end no line, and no string of JSON.
fn line(format: Format, now: Stamp, level: Level, message: &str) -> String {
    let time = Utc::of(now.wall_ms);
    match format {
        Format::Text => format!("{time} {level} {}\n", escape(message)),
        Format::Json => {
            let level = level.as_str().to_ascii_lowercase();
            let quoted = serde_json::Value::from(message).to_string();
            let mut message = String::with_capacity(quoted.len());
            for c in quoted.chars() {
                if is_plain(c) {
                    message.push(c);
                } else {
                    // None of them has a number of more than four digits.
                    let _ = write!(message, "\\u{:04x}", u32::from(c));
                }
            }
            format!("{{\"time\":\"{time}\",\"level\":\"{level}\",\"message\":{message}}}\n")
        }
    }
}

/// Text from outside, fit for a line that people read: what would end the line, move the cursor,
/// hide, or turn round what follows is shown by its number.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
            escaped.push(c);
        } else {
            let _ = write!(escaped, "{}", c.escape_default());
        }
    }
    escaped
}

/// Neither a control character, nor of zero width, nor a line end or a direction of Unicode's
/// (CVE-2021-42574).
pub(crate) fn is_plain(c: char) -> bool {
    let of_format = matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    !c.is_control() && !of_format
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lines(file: Option<File>) -> Lines {
        log::set_max_level(LevelFilter::Info);
        Lines { file }
    }

    fn say(to: &Lines, level: Level, message: &str) {
        to.log(&Record::builder().level(level).args(format_args!("{message}")).build());
    }

    #[test]
    fn a_line_is_one_line() {
        let now = Stamp { boot_ms: 1, wall_ms: 1_795_255_871_123 };
        assert_eq!(
            line(Format::Text, now, Level::Warn, "pod \"a\nb\u{1b}[0m\" größer"),
            "2026-11-21T10:11:11.123Z WARN pod \"a\\nb\\u{1b}[0m\" größer\n"
        );
        // Terminals and log viewers turn round what follows a direction, and some break lines here.
        assert_eq!(escape("a\u{202e}b\u{2028}c\u{85}"), "a\\u{202e}b\\u{2028}c\\u{85}");
    }

    #[test]
    fn a_line_of_json_is_one_object() {
        let now = Stamp { boot_ms: 1, wall_ms: 1_795_255_871_123 };
        let message = "pod \"a\nb\u{1b}[0m\u{202e}\u{85}\u{7f}\" größer";
        let line = line(Format::Json, now, Level::Warn, message);
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        let expected = serde_json::json!({
            "time": "2026-11-21T10:11:11.123Z", "level": "warn", "message": message,
        });
        assert_eq!(read, expected);
        assert!(line.trim_end().chars().all(is_plain) && line.matches('\n').count() == 1, "{line}");
        assert_eq!("jsn".parse::<Format>(), Err("not text, nor json"));
    }

    #[test]
    fn of_a_storm_the_first_lines_are_said_and_the_rest_is_counted() {
        let lines = Repeated::new("pods are dead");
        let begun = BootTime::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let said = |second| lines.next(at(second));
        for second in 0..5 {
            assert_eq!(said(second), (0, Level::Info));
        }
        assert_eq!(said(6), (0, Level::Debug));
        assert_eq!(said(59), (0, Level::Debug));
        assert_eq!(lines.rest(at(59), false), 0, "the minute is not over");
        assert_eq!(said(60), (2, Level::Info), "the next one begins");
        for second in 61..67 {
            said(second);
        }
        assert_eq!(lines.rest(at(67), true), 2);
        assert_eq!(lines.rest(at(300), true), 0, "it was said");
    }

    #[test]
    fn a_file_is_private_and_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for message in ["one", "two"] {
            let lines = lines(Some(open(&path).unwrap()));
            say(&lines, Level::Info, message);
            say(&lines, Level::Debug, "not at this level");
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let said: Vec<&str> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert_eq!(said, ["INFO one", "INFO two"]);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_fifo_without_a_reader_and_a_full_disk_do_not_stop_us() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(open(&fifo).unwrap_err().raw_os_error(), Some(nix::errno::Errno::ENXIO as i32));
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        say(&lines(Some(full)), Level::Info, "to stderr instead");
    }
}
