//! A binary or a unit in its place, whole.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, FileError, conflist};
use crate::util::atomic_file::{NewFile, sync_directory};
use conflist::{directory_of, io_error, lock_directory};

/// What a call that was killed leaves; no runtime and no systemd reads it.
fn temporary(file: &Path) -> PathBuf {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    file.with_file_name(format!(".{name}.new.self"))
}

/// Puts these bytes at `file`, so that a reader finds all of the old file or all of the new one,
/// if the new one passes the check. False if it was there already.
pub(super) fn put(
    file: &Path,
    bytes: &[u8],
    mode: u32,
    check: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<bool, Error> {
    let directory = directory_of(file);
    fs::create_dir_all(&directory).map_err(io_error(&directory, "make it"))?;
    let _lock = lock_directory(file)?;
    let temporary = temporary(file);
    let _ = fs::remove_file(&temporary);
    let meta = fs::metadata(file);
    if meta.is_ok_and(|meta| meta.permissions().mode() & mode == mode)
        && fs::read(file).is_ok_and(|there| there == bytes)
    {
        return Ok(false);
    }
    let new = NewFile::write(temporary.clone(), |file| {
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()
    })
    .map_err(io_error(&temporary, "write it"))?;
    check(new.path())?;
    new.replace(file).map_err(io_error(file, "replace it"))?;
    sync_directory(&directory);
    Ok(true)
}

/// False if it was not there.
pub(super) fn remove(file: &Path) -> Result<bool, FileError> {
    let _ = fs::remove_file(temporary(file));
    match fs::remove_file(file) {
        Ok(()) => {
            sync_directory(&directory_of(file));
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(file, "remove it")(error)),
    }
}

/// What the runtime is going to call must start there: the directory may be mounted `noexec`.
pub(super) fn must_speak_cni(binary: &Path) -> Result<(), Error> {
    let mut command = Command::new(binary);
    command.env("CNI_COMMAND", "VERSION");
    let answer = answer(command, br#"{"cniVersion":"1.0.0"}"#);
    answers(binary, "CNI VERSION", answer, |text| text.contains("\"supportedVersions\""))
}

/// The daemon, too, must start there, and be the daemon.
pub(super) fn must_be_the_daemon(binary: &Path) -> Result<(), Error> {
    let mut command = Command::new(binary);
    command.arg("--version");
    let is_it = |text: &str| text.starts_with("ovs-flow-gcd ");
    answers(binary, "--version as ovs-flow-gcd", answer(command, b""), is_it)
}

fn answer(mut command: Command, ask: &[u8]) -> io::Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends without reading has its say in what it prints.
        let _ = stdin.write_all(ask);
    }
    Ok(String::from_utf8_lossy(&child.wait_with_output()?.stdout).into_owned())
}

fn answers(
    binary: &Path,
    what: &str,
    answer: io::Result<String>,
    is_right: impl FnOnce(&str) -> bool,
) -> Result<(), Error> {
    if is_right(&answer.map_err(io_error(binary, "run it"))?) {
        return Ok(());
    }
    Err(Error::Node(format!(
        "{} does not answer {what}: not installed, and what was there is still there",
        binary.display()
    )))
}
