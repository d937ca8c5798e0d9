//! This binary as a CNI plugin of the node.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{Error, FileError, io_error, lock};
use crate::util::atomic_file::{NewFile, sync_directory};

/// Under `.ovs-flow-gc.new.*`, which install.sh clears away as well.
const TEMPORARY: &str = ".ovs-flow-gc.new.self";

/// Puts the running binary at `installed`, so that a reader finds all of the old file or
/// all of the new one. False if it was there already.
pub(super) fn put(installed: &Path) -> Result<bool, Error> {
    let own = PathBuf::from("/proc/self/exe");
    let bytes = fs::read(&own).map_err(|e| io_error(&own, "read it", e))?;
    let directory = directory_of(installed);
    fs::create_dir_all(&directory).map_err(|e| io_error(&directory, "make it", e))?;
    let _lock = lock(&directory)?;
    if is_there(installed, &bytes) {
        return Ok(false);
    }
    let temporary = directory.join(TEMPORARY);
    let _ = fs::remove_file(&temporary);
    let new = NewFile::write(temporary.clone(), |file| {
        file.write_all(&bytes)?;
        file.set_permissions(fs::Permissions::from_mode(0o755))?;
        file.sync_all()
    })
    .map_err(|e| io_error(&temporary, "write it", e))?;
    must_speak_cni(new.path())?;
    new.replace(installed).map_err(|e| io_error(installed, "replace it", e))?;
    sync_directory(&directory);
    Ok(true)
}

/// False if it was not there.
pub(super) fn remove(installed: &Path) -> Result<bool, FileError> {
    let directory = directory_of(installed);
    let _ = fs::remove_file(directory.join(TEMPORARY));
    match fs::remove_file(installed) {
        Ok(()) => {
            sync_directory(&directory);
            Ok(true)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(io_error(installed, "remove it", error)),
    }
}

fn is_there(installed: &Path, bytes: &[u8]) -> bool {
    let Ok(meta) = fs::metadata(installed) else { return false };
    let executable = meta.permissions().mode() & 0o111 == 0o111;
    executable
        && usize::try_from(meta.len()) == Ok(bytes.len())
        && fs::read(installed).is_ok_and(|there| there == bytes)
}

/// What the runtime is going to call must start there: the directory may be mounted `noexec`.
fn must_speak_cni(binary: &Path) -> Result<(), Error> {
    let ask = || -> io::Result<Vec<u8>> {
        let mut child = Command::new(binary)
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(br#"{"cniVersion":"1.0.0"}"#)?;
        }
        Ok(child.wait_with_output()?.stdout)
    };
    let answer = ask().map_err(|e| io_error(binary, "run it", e))?;
    if String::from_utf8_lossy(&answer).contains("\"supportedVersions\"") {
        return Ok(());
    }
    Err(Error::Node(format!(
        "{} does not answer CNI VERSION: not installed, and what was there is still there",
        binary.display()
    )))
}

fn directory_of(path: &Path) -> PathBuf {
    path.parent().map(Path::to_owned).unwrap_or_default()
}
