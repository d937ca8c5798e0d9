//! Why the database did not answer.

use std::io;
use std::path::{Path, PathBuf};

/// Why a question to OVSDB has no answer. None of these means "there is no such row".
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection.
    #[error("cannot connect to OVSDB at {}: {source}{}", path.display(), remedy(source, path))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The deadline passed. The server is stopped, or busy for longer than we may wait.
    #[error("ovsdb-server did not answer in time ({doing})")]
    TimedOut {
        /// What we were waiting for.
        doing: &'static str,
    },
    /// The server closed the connection before it had answered.
    #[error("ovsdb-server closed the connection before it answered; was it restarted?")]
    Closed,
    /// Reading or writing failed otherwise.
    #[error("OVSDB connection failed ({doing}): {source}")]
    Io {
        /// What we were doing.
        doing: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// An answer that we cannot read. Nothing may be concluded from it.
    #[error("cannot read ovsdb-server's answer: {what}")]
    Malformed {
        /// What is wrong with it.
        what: String,
    },
    /// The server understood and refused.
    #[error("ovsdb-server refused: {what}")]
    Refused {
        /// The server's own words.
        what: String,
    },
    /// A row is not as it was when it was read: nothing was changed.
    #[error("{what} has changed in OVSDB since it was read; left alone")]
    Changed {
        /// Which row.
        what: String,
    },
}

impl Error {
    pub(super) fn malformed(what: impl Into<String>) -> Self {
        Self::Malformed { what: what.into() }
    }

    /// An error of a read or a write.
    pub(super) fn io(doing: &'static str, source: io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, TimedOut, UnexpectedEof, WouldBlock};
        match source.kind() {
            // A socket's timeout reads as EAGAIN.
            TimedOut | WouldBlock => Self::TimedOut { doing },
            BrokenPipe | ConnectionReset | UnexpectedEof => Self::Closed,
            _ => Self::Io { doing, source },
        }
    }
}

fn remedy(source: &io::Error, path: &Path) -> String {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied, TimedOut};
    match source.kind() {
        // Sockets are 0750: without the capability not even root may connect to another
        // user's (RHEL runs OVS as `openvswitch`).
        PermissionDenied => format!(
            "; it belongs to another user: run with CAP_DAC_OVERRIDE, or as {}",
            owner(path).map_or_else(|| "the socket's user".to_owned(), |uid| format!("uid {uid}"))
        ),
        NotFound => "; is ovsdb-server running, and is this its run directory \
                     (ovsRunDir, OVS_RUNDIR)?"
            .to_owned(),
        ConnectionRefused => "; ovsdb-server is not running: it left the socket behind".to_owned(),
        TimedOut => "; ovsdb-server hangs with its backlog full, or no time was left".to_owned(),
        _ => String::new(),
    }
}

fn owner(path: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).ok().map(|m| m.uid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_denied_names_both_remedies() {
        let error = Error::Connect {
            path: "/nonexistent/db.sock".into(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        let text = error.to_string();
        assert!(text.contains("/nonexistent/db.sock"), "{text}");
        assert!(text.contains("CAP_DAC_OVERRIDE"), "{text}");
        assert!(text.contains("the socket's user"), "{text}");
    }
}
