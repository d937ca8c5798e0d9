//! A terminal's manners: tables that fit, colours, progress. `script` gives a command a terminal.

use super::{GC, pods};
use crate::rig::{Node, Outcome, Port, Setup};

/// The admin command on a terminal of so many columns; `how` stands in front of it in the shell,
/// `behind` after it.
#[track_caller]
fn on_terminal(node: &Node, columns: u16, [how, args, behind]: [&str; 3]) -> Outcome {
    let (plugin, state) = (node.plugin(GC).display().to_string(), node.state_dir.display());
    let line = format!(
        "stty cols {columns}; TERM=xterm {how} {plugin} {args} --state-dir {state} {behind}"
    );
    node.run("script", &["-qec", &line, "/dev/null"])
}

fn widest(text: &str) -> usize {
    text.lines().map(|line| line.trim_end().chars().count()).max().unwrap_or(0)
}

#[test]
fn a_table_is_as_wide_as_the_terminal() {
    let node = Setup::new().up("terminal_width");
    pods(&node, &["web", "db"]);
    let list = |columns, how| on_terminal(&node, columns, [how, "list --no-flows", ""]).ok();
    let piped = node.admin(&["list", "--no-flows"]).ok();
    assert!(widest(&piped) > 150, "{piped}");
    for (columns, how) in [(100, "NO_COLOR=1"), (500, "NO_COLOR=1 COLUMNS=100")] {
        let narrow = list(columns, how);
        assert!(widest(&narrow) <= 100, "{narrow}");
        assert!(narrow.contains("POD") && narrow.contains("STATE"), "{narrow}");
        assert!(!narrow.contains("  MAC") && narrow.contains("not shown: MAC, "), "{narrow}");
    }
    let lines = |text: &str| text.lines().map(|l| l.trim_end().to_owned()).collect::<Vec<_>>();
    // Ages go on.
    let head = |text: &str| lines(text).into_iter().next();
    assert_eq!(head(&list(500, "NO_COLOR=1")), head(&piped));
    // A width that nobody knows, and one that is none.
    assert_eq!(head(&list(0, "NO_COLOR=1")), head(&piped));
    assert_eq!(head(&list(500, "NO_COLOR=1 COLUMNS=wide")), head(&piped));
    let wide = on_terminal(&node, 60, ["NO_COLOR=1", "list --no-flows -o wide", ""]).ok();
    assert_eq!(head(&wide), head(&piped));
    // What is piped is the same for every width.
    let file = node.dir.join("piped").display().to_string();
    on_terminal(&node, 60, ["COLUMNS=60", "list --no-flows", &format!(">{file}")]).ok();
    assert_eq!(head(&std::fs::read_to_string(&file).unwrap()), head(&piped));
    // Findings and what to do about them are sentences.
    let doctor = on_terminal(&node, 100, ["NO_COLOR=1", "doctor", ""]).stdout;
    assert!(doctor.contains("WHAT TO DO") && !doctor.contains("not shown"), "{doctor}");
    let json = node.admin(&["list", "-o", "json"]).json();
    assert_eq!(json.as_array().map(Vec::len), Some(2), "{json}");
    assert_eq!(node.admin(&["list", "-o", "yaml"]).code, Some(2));
}

#[test]
fn states_are_coloured_on_a_terminal_only() {
    let node = Setup::new().up("terminal_colour");
    let (pods, _) = pods(&node, &["web", "db"]);
    node.vanish(&pods[1], Port::Gone);
    let shown = |how, args| on_terminal(&node, 300, [how, args, ""]).stdout;
    let list = shown("", "list --no-flows");
    assert!(list.contains("\u{1b}[32mactive\u{1b}[0m"), "{list:?}");
    assert!(list.contains("\u{1b}[31mdead\u{1b}[0m"), "{list:?}");
    let dry = shown("", "sweep --dry-run");
    assert!(dry.contains("\u{1b}[33mwould") || dry.contains("\u{1b}[33mwaits"), "{dry:?}");
    assert!(shown("", "doctor").contains("\u{1b}[32mok\u{1b}[0m"));
    assert!(shown("", "status").contains("\u{1b}[32mall is well\u{1b}[0m"));
    node.admin(&["pause"]).ok();
    assert!(shown("", "status").contains("\u{1b}[33mnothing on this node is deleted"));
    for how in ["NO_COLOR=1", "TERM=dumb"] {
        assert!(!shown(how, "list --no-flows").contains('\u{1b}'), "{how}");
    }
    // Set and empty is not set.
    assert!(shown("NO_COLOR=", "list --no-flows").contains('\u{1b}'));
    for args in [&["list"][..], &["status"], &["doctor"], &["sweep", "--dry-run"]] {
        assert!(!node.admin(args).stdout.contains('\u{1b}'), "{args:?}");
    }
}

#[test]
fn a_sweep_that_takes_longer_says_how_far_it_is() {
    let node = Setup::new().up("terminal_progress");
    pods(&node, &["web"]);
    let file = node.dir.join("answer").display().to_string();
    let into = format!(">{file}");
    let sweep = |args: &str| on_terminal(&node, 100, ["", args, &into]).stdout;
    let quick = sweep("sweep");
    assert!(!quick.contains("sweep: "), "{quick:?}");
    node.vswitchd.pause();
    let slow = sweep("sweep --timeout 3");
    assert!(slow.contains("sweep: 1s bridge br0 (1 of 1)\r"), "{slow:?}");
    assert!(slow.trim_end().ends_with("\u{1b}[K"), "the line is taken away: {slow:?}");
    assert!(std::fs::read_to_string(&file).unwrap().contains("1 attachment"));
    let piped = node.admin(&["sweep", "--timeout", "3"]);
    assert!(!piped.stderr.contains("sweep: "), "{piped}");
    node.vswitchd.resume();
}
