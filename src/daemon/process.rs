//! `process_*`: what every Prometheus client says of its process, from /proc.

use std::fmt::Write;
use std::fs;

use nix::unistd::{SysconfVar, sysconf};

/// As OpenMetrics text, without its end mark. What /proc does not say is left out.
pub(super) fn metrics() -> String {
    let mut text = String::new();
    let mut say = |name: &str, kind: &str, help: &str, value: Option<f64>| {
        let Some(value) = value else { return };
        let total = if kind == "counter" { "_total" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# HELP process_{name} {help}.\n# TYPE process_{name} {kind}\nprocess_{name}{total} {value}"
        );
    };
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name may have spaces; the numbers are counted from the state, which is field 3.
    let fields: Vec<f64> = stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| {
        rest.split_whitespace().map(|word| word.parse().unwrap_or(0.0)).collect()
    });
    let field = |number: usize| fields.get(number.checked_sub(3)?).copied();
    let conf = |name| sysconf(name).ok().flatten().map(|value| value as f64);
    let (tick, page) = (conf(SysconfVar::CLK_TCK), conf(SysconfVar::PAGE_SIZE));
    let cpu =
        field(14).zip(field(15)).zip(tick).map(|((user, system), tick)| (user + system) / tick);
    say("cpu_seconds", "counter", "Time of processors that it took", cpu);
    let started = booted().zip(field(22)).zip(tick).map(|((boot, at), tick)| boot + at / tick);
    say("start_time_seconds", "gauge", "When it started, in Unix time", started);
    let resident = field(24).zip(page).map(|(pages, page)| pages * page);
    say("resident_memory_bytes", "gauge", "Memory that it has", resident);
    say("virtual_memory_bytes", "gauge", "Memory that it has asked for", field(23));
    let open = fs::read_dir("/proc/self/fd").ok().map(|files| files.count() as f64);
    say("open_fds", "gauge", "Files that it has open", open);
    say("max_fds", "gauge", "Files that it may have open", most_files());
    text
}

/// In Unix time.
fn booted() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn most_files() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_described() {
        let text = metrics();
        let value = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
            line.unwrap_or_else(|| panic!("{name}: {text}")).parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") > 10.0);
        let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((now - 3_600.0..now + 1.0).contains(&value("process_start_time_seconds")));
        assert!(value("process_cpu_seconds_total") < 3_600.0);
    }
}
