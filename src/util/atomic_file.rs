//! Replacing a file so that a reader finds all of the old one or all of the new one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is complete, under a temporary name. It is removed unless it
/// [replaces](NewFile::replace) another one.
#[derive(Debug)]
pub struct NewFile {
    temporary: PathBuf,
    placed: bool,
}

impl NewFile {
    /// Makes the file, which must not be there. `write` fills it while only its owner may read it
    /// (mode 0600); it is closed behind that.
    ///
    /// # Errors
    /// Those of making and of filling it; nothing is left of it then.
    pub fn write(
        temporary: PathBuf,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        let new = Self { temporary, placed: false };
        write(&mut file)?;
        Ok(new)
    }

    /// Where it is until then.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Puts it in the place of another file of the same directory, or where none is.
    ///
    /// # Errors
    /// Those of rename(2); the other file is as it was.
    pub fn replace(mut self, path: &Path) -> io::Result<()> {
        fs::rename(&self.temporary, path)?;
        self.placed = true;
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.placed {
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Has the kernel write a directory's names to its disk: a rename or removal in it then outlives
/// a crash of the node. Where that fails there is nothing left to do.
pub fn sync_directory(directory: &Path) {
    if let Ok(directory) = File::open(directory) {
        let _ = directory.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn all_of_the_new_or_all_of_the_old() {
        let directory = tempfile::tempdir().unwrap();
        let (path, temporary) = (directory.path().join("a"), directory.path().join(".a.tmp"));
        NewFile::write(path.clone(), |file| file.write_all(b"old"))
            .unwrap()
            .replace(&path)
            .unwrap();
        let full = NewFile::write(temporary.clone(), |file| {
            file.write_all(b"ne")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert!(full.is_err() && !temporary.exists());
        drop(NewFile::write(temporary.clone(), |file| file.write_all(b"new")).unwrap());
        assert!(!temporary.exists());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let new = NewFile::write(temporary.clone(), |file| file.write_all(b"new")).unwrap();
        assert!(NewFile::write(temporary.clone(), |_| Ok(())).is_err());
        assert!(temporary.exists(), "it is not the second one's");
        new.replace(&path).unwrap();
        assert!(!temporary.exists());
        assert_eq!(fs::read(&path).unwrap(), b"new");
    }
}
