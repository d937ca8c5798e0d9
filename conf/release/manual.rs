//! Writes the man pages (`man`) and the shells' completions (`completions`) of both programs
//! below a directory. For `conf/release/make.sh`; no release has this program.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("which directory?"))?;
    let (man, completions) = (directory.join("man"), directory.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let daemon = ovs_flow_gc::daemon::options::Options::command;
    for command in [ovs_flow_gc::cli::command, daemon] {
        let name = command().get_name().to_owned();
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            clap_complete::generate_to(shell, &mut command(), &name, &completions)?;
        }
        // `help` of each command is no command that needs a page.
        clap_mangen::generate_to(command().disable_help_subcommand(true), &man)?;
    }
    Ok(())
}
