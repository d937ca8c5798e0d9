//! `pause` and `resume`: one file decides for everything on this node.

use std::time::Duration;

use clap::Args;
use nix::unistd::Uid;
use serde_json::json;

use super::{Context, Error, Exit, output};
use crate::store::{Pause, Registry};
use crate::util::clock::Utc;

#[derive(Debug, Args)]
pub(super) struct Options {
    /// It ends by itself after so long: 90s, 10m, 1h, 2d.
    #[arg(long = "for", value_name = "TIME", value_parser = time)]
    lasts: Option<Duration>,
    /// What for; `status` and `doctor` show it.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
}

/// A time as people write it.
fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "a time is a number and s, m, h or d, up to 365d: 90s, 10m, 1h".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text.get(digits.len()..) {
        Some("s") => 1,
        Some("m") => 60,
        Some("h") => 3_600,
        Some("d") => 86_400,
        _ => return Err(wrong()),
    };
    let seconds = digits.parse().ok().and_then(|n: u64| n.checked_mul(factor));
    let seconds = seconds.filter(|s| (1..=365 * 86_400).contains(s)).ok_or_else(wrong)?;
    Ok(Duration::from_secs(seconds))
}

/// Who runs this: the one who called sudo, if somebody did. (Names of users are not looked up: the
/// code for that is a thirtieth of the binary.)
fn caller() -> String {
    let sudo = std::env::var("SUDO_USER").ok().filter(|name| !name.is_empty());
    let user = || match Uid::current() {
        root if root.is_root() => "root".to_owned(),
        other => format!("user {other}"),
    };
    sudo.unwrap_or_else(user)
}

pub(super) fn pause(context: &Context, options: &Options) -> Result<Exit, Error> {
    let registry = Registry::open(&context.state_dir)?;
    // It is shown in a line of a terminal and on a page.
    let reason = options.reason.replace(char::is_control, " ");
    let reason = Some(reason).filter(|reason| !reason.is_empty());
    let pause = Pause::new(options.lasts, Some(caller()), reason).map_err(Error::BootId)?;
    if !registry.begin_pause(&pause)? {
        let text = "paused, but the disk of the state directory is full: the pause has no end and no \
                    reason (`ovs-flow-gc resume` ends it)";
        output::say(context, &json!({ "paused": true, "pause": null }), text)?;
        return Ok(Exit::Attention);
    }
    let until = pause.until.map(|until| format!(" until {}", Utc::of(until.wall_ms)));
    let text = format!(
        "paused{}: nothing on this node is deleted, DELs are remembered (`ovs-flow-gc resume` ends it)",
        until.unwrap_or_default()
    );
    output::say(context, &json!({ "paused": true, "pause": pause }), &*text)?;
    Ok(Exit::Done)
}

pub(super) fn resume(context: &Context) -> Result<Exit, Error> {
    Registry::open(&context.state_dir)?.end_pause()?;
    let text = "resumed: the next sweep does what was put off";
    output::say(context, &json!({ "paused": false }), text)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        let seconds = |text| time(text).map(|time| time.as_secs());
        let known = [("90s", 90), ("10m", 600), ("1h", 3_600), ("2d", 172_800)];
        for (text, expected) in known {
            assert_eq!(seconds(text), Ok(expected));
        }
        for text in
            ["", "h", "1", "1w", "-1h", "1.5h", "0s", "366d", "99999999999999999999d", "1hh", "1é"]
        {
            assert!(seconds(text).unwrap_err().contains("90s, 10m, 1h"), "{text}");
        }
    }
}
