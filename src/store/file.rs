//! Reading and writing single files such that no reader ever sees half of one.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::fcntl::OFlag;
use nix::time::{ClockId, clock_gettime};

use super::error::{CorruptWhy, Error};
use super::layout::TEMPORARY;
use crate::util::atomic_file::NewFile;

/// No record and no network's state is larger.
pub(super) const MOST: u64 = 64 * 1024;

/// A number that no other life of a key has: milliseconds since boot, then twelve bits of
/// process id, nanoseconds and a counter. Below 2^53, so that tools which read JSON numbers
/// as doubles do not round it.
#[must_use]
pub fn new_generation() -> u64 {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or((0, 0), |t| {
        (u64::try_from(t.tv_sec()).unwrap_or(0), u64::try_from(t.tv_nsec()).unwrap_or(0))
    });
    let (seconds, nanoseconds) = now;
    let milliseconds = seconds * 1000 + nanoseconds / 1_000_000;
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    // The counter is added last, unmixed: calls of one process within a millisecond differ.
    let process = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52;
    let mixed = process.wrapping_add(count) & 0xfff;
    ((milliseconds & 0x1ff_ffff_ffff) << 12) | mixed
}

/// Opens a file to be locked, and makes it if need be. Never through a link, and nothing in its
/// place makes us wait.
pub(super) fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(path)
}

/// Whether a directory takes a small file. It is one without a name: nobody who watches the
/// directory hears of it, and nothing is left of it.
///
/// # Errors
/// [`Error::Io`]. Where there are no files without a name, none.
pub(super) fn try_to_write(directory: &Path) -> Result<(), Error> {
    let flags = OFlag::O_TMPFILE.bits();
    let file = OpenOptions::new().write(true).mode(0o600).custom_flags(flags).open(directory);
    match file.and_then(|mut file| file.write_all(&[0; 4_096])) {
        Err(failed) if failed.raw_os_error() == Some(nix::libc::EOPNOTSUPP) => Ok(()),
        done => done.map_err(Error::io("write to", directory)),
    }
}

/// Writes a file that appears whole or not at all, in place of an earlier one.
///
/// There is no fsync: the state directory is tmpfs, and on a disk a crash of the node ends
/// everything recorded anyway (another boot id is death; an empty record counts as absent).
/// What must survive, a crash of *this process*, needs none.
///
/// # Errors
/// [`Error::Io`]; the earlier file is as it was and the temporary one is gone.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let name = format!(".{}-{}{TEMPORARY}", std::process::id(), new_generation());
    let temporary = directory.join(name);
    NewFile::write(temporary, |file| file.write_all(bytes))
        .and_then(|new| new.replace(path))
        .map_err(Error::io("write", path))
}

/// Makes a directory that only we can read, unless it is there.
pub(super) fn make_directory(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::io("make directory", path)(e))
        }
        _ => Ok(()),
    }
}

/// Removes a file that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// What [`read`] found.
pub(super) enum Content {
    Absent,
    Bytes(Vec<u8>, fs::Metadata),
    Odd(CorruptWhy),
}

/// Reads a small regular file; follows no link, waits for no FIFO's writer.
pub(super) fn read(path: &Path) -> Result<Content, Error> {
    let failed = |e| Error::io("read", path)(e);
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Content::Absent),
        // O_NOFOLLOW on a link; a socket.
        Err(e) if [nix::libc::ELOOP, nix::libc::ENXIO].map(Some).contains(&e.raw_os_error()) => {
            return Ok(Content::Odd(CorruptWhy::NotAFile));
        }
        Err(e) => return Err(failed(e)),
    };
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Ok(Content::Odd(CorruptWhy::NotAFile));
    }
    let bytes = read_at_most(&file, meta.len()).map_err(failed)?;
    Ok(match bytes {
        None => Content::Odd(CorruptWhy::TooLarge(MOST)),
        Some(bytes) if bytes.is_empty() => Content::Odd(CorruptWhy::Empty),
        Some(bytes) => Content::Bytes(bytes, meta),
    })
}

fn retry<T>(mut once: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match once() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn read_at_most(file: &File, expected: u64) -> io::Result<Option<Vec<u8>>> {
    if expected > MOST {
        return Ok(None);
    }
    // One byte more than there should be: a read that does not fill it has met the end.
    let mut bytes = vec![0; usize::try_from(expected).unwrap_or(0).saturating_add(1)];
    let read = retry(|| (&*file).read(&mut bytes))?;
    if read == bytes.len() {
        file.take((MOST + 1).saturating_sub(read as u64)).read_to_end(&mut bytes)?;
    } else {
        bytes.truncate(read);
    }
    Ok(if bytes.len() as u64 > MOST { None } else { Some(bytes) })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn generations_are_unique_and_survive_a_double() {
        let some: Vec<u64> = (0..4000).map(|_| new_generation()).collect();
        assert_eq!(some.iter().collect::<HashSet<_>>().len(), some.len());
        assert!(some.iter().all(|g| *g < 1 << 53));
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("directory")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for odd in ["directory", "link", "fifo", "socket"] {
            let found = read(&at(odd)).unwrap();
            assert!(matches!(found, Content::Odd(CorruptWhy::NotAFile)), "{odd}");
        }
        let sized = |size: u64| {
            File::create(at("sized")).unwrap().set_len(size).unwrap();
            read(&at("sized")).unwrap()
        };
        assert!(matches!(sized(MOST + 1), Content::Odd(CorruptWhy::TooLarge(_))));
        assert!(matches!(sized(MOST), Content::Bytes(b, _) if b.len() as u64 == MOST));
        assert!(matches!(sized(0), Content::Odd(CorruptWhy::Empty)));
        assert!(matches!(read(&at("absent")).unwrap(), Content::Absent));
    }

    #[test]
    fn a_replaced_file_is_new_or_old_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        for text in ["one", "two"] {
            replace(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // The rename fails (a directory is in the way): nothing stays behind.
        let blocked = dir.path().join("d");
        fs::create_dir_all(blocked.join("x")).unwrap();
        assert!(matches!(replace(&blocked, b"z"), Err(Error::Io { doing: "write", .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}
