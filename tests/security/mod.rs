//! What `docs/security.md` claims, where no other test shows it already: names from hostile pods,
//! runtimes and database clients reach no path, no log line and no metric of their own; what is
//! planted in the state directory makes nothing alive die; the bill of materials is whole.

mod materials;
mod names;
mod planted;

use crate::rig::Outcome;

const GC: &str = "ovs-flow-gc";

/// What each of these is when it is only text: longer than anything, of another file, of another
/// line, of a shell, of a format, of a terminal, of a page that reads from right to left.
const HOSTILE: &[&str] = &[
    "../../../../tmp/ofg-escaped",
    "/etc/cron.d/ofg-escaped",
    "$(touch /tmp/ofg-escaped)",
    "`touch /tmp/ofg-escaped`; touch /tmp/ofg-escaped",
    "a\n2026-11-21T10:11:11.123Z WARN forged",
    "a\r2026-11-21T10:11:11.123Z WARN forged",
    "\u{1b}[2J\u{1b}]0;forged\u{7}",
    "\u{202e}forged\u{2028}forged\u{85}forged",
    "%s%n%x{}{0}",
    "\"}],\"forged\":[{\"",
    "forged} 1\n# HELP forged",
    "\u{0}forged",
    "-rf",
    "ⅷ\u{301}\u{fffd}",
];

/// Everything that it wrote for people is whole lines of its own, without a control character.
#[track_caller]
fn is_plain(outcome: &Outcome) {
    assert!(!outcome.stderr.contains("panicked"), "{outcome}");
    let plain = |c: char| {
        c == '\n'
            || !(c.is_control()
                || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}'))
    };
    for text in [&outcome.stdout, &outcome.stderr] {
        assert!(text.chars().all(plain), "{text:?}");
    }
    is_logged(outcome);
}

/// The same of what it logged; ADD's result is another plugin's, and passed on as it came.
#[track_caller]
fn is_logged(outcome: &Outcome) {
    assert!(!outcome.stderr.chars().any(|c| c.is_control() && c != '\n'), "{outcome}");
    for line in outcome.stderr.lines() {
        // 2026-11-21T10:11:11.123Z LEVEL, or the admin command's own complaint.
        let logged = line.as_bytes().get(23) == Some(&b'Z') && line.starts_with("20");
        let complaint = line.starts_with("ovs-flow-gc: ");
        assert!(logged || complaint, "a line that is none of ours: {line:?} in {outcome}");
        assert!(!line.starts_with("2026-11-21T10:11:11.123Z"), "forged: {outcome}");
    }
}
