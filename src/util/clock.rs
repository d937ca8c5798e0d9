//! Time, and the deadlines that bound everything we do on a switch.

use std::fmt;
use std::io::{self, Read};
use std::ops::{Add, Sub};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket, sockopt};
use nix::sys::time::TimeVal;
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A moment on two clocks: wall time for people, `CLOCK_BOOTTIME` for arithmetic
/// (wall clocks step back). Compare stamps of one boot only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    /// Milliseconds since boot, suspend included.
    pub boot_ms: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub wall_ms: u64,
}

impl Stamp {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let boot_ms = clock_gettime(ClockId::CLOCK_BOOTTIME)
            .ok()
            .and_then(|t| u64::try_from(Duration::from(t).as_millis()).ok())
            .unwrap_or(0);
        let wall_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|d| u64::try_from(d.as_millis()).ok())
            .unwrap_or(0);
        Self { boot_ms, wall_ms }
    }

    /// How long before `later` this was; zero if it was not.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        Duration::from_millis(later.boot_ms.saturating_sub(self.boot_ms))
    }

    /// The stamp of a wall-clock time (a file's ctime), as seen from `now`.
    /// `None` if it lies in the future or before this boot.
    #[must_use]
    pub fn of_wall(wall_ms: u64, now: Self) -> Option<Self> {
        let ago = now.wall_ms.checked_sub(wall_ms)?;
        let boot_ms = now.boot_ms.checked_sub(ago)?;
        Some(Self { boot_ms, wall_ms })
    }
}

/// A moment on the boot clock (`CLOCK_BOOTTIME`), to the nanosecond; before the boot it is negative.
/// Adding and subtracting stop at [`BootTime::EARLIEST`] and [`BootTime::LATEST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(i64);

impl BootTime {
    /// Before everything.
    pub const EARLIEST: Self = Self(i64::MIN);
    /// After everything.
    pub const LATEST: Self = Self(i64::MAX);

    /// Now.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
        now.map_or(Self(0), |since_boot| Self(0) + since_boot)
    }

    /// How long before `later` this was; zero if it was not.
    #[must_use]
    pub fn until(self, later: Self) -> Duration {
        let (ns, before) = (later.0.abs_diff(self.0), self < later);
        if before { Duration::from_nanos(ns) } else { Duration::ZERO }
    }
}

/// As late as can be: what nobody has dated was made for somebody alive, perhaps.
impl Default for BootTime {
    fn default() -> Self {
        Self::LATEST
    }
}

impl From<Stamp> for BootTime {
    fn from(stamp: Stamp) -> Self {
        Self(0) + Duration::from_millis(stamp.boot_ms)
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(nanoseconds(time)))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    fn sub(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(nanoseconds(time)))
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// One deadline over connect, write and read: `timeoutMs` counts for the whole call.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// The moment `after` from now.
    #[must_use]
    pub fn after(after: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(after).unwrap_or(now))
    }

    /// What is left; `TimedOut` when nothing is.
    ///
    /// # Errors
    /// `io::ErrorKind::TimedOut` once the deadline has passed.
    pub fn left(self) -> io::Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Whether it has passed.
    #[must_use]
    pub fn passed(self) -> bool {
        self.left().is_err()
    }
}

/// Connects to a Unix stream socket within the deadline. A hung listener with a full
/// backlog blocks a plain connect for ever; `SO_SNDTIMEO` bounds it.
///
/// # Errors
/// The operating system's; `TimedOut` when the deadline passed.
pub fn connect_within(path: &Path, deadline: Deadline) -> io::Result<UnixStream> {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let left = deadline.left()?;
    let timeout = TimeVal::new(
        i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        i64::from(left.subsec_micros().max(1)),
    );
    nix::sys::socket::setsockopt(&fd, sockopt::SendTimeout, &timeout)?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(fd.as_raw_fd(), &address) {
            Ok(()) => return Ok(UnixStream::from(fd)),
            Err(nix::errno::Errno::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
            // Stopped and continued while it waited (signal(7)).
            Err(nix::errno::Errno::EINTR) if !deadline.passed() => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Connects to a Unix stream socket if that needs no waiting; the stream does not block
/// either.
///
/// # Errors
/// The operating system's; `WouldBlock` for a full backlog.
pub fn connect_at_once(path: &Path) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(UnixStream::from(fd))
}

/// Sets both timeouts of a stream to what the deadline leaves.
///
/// # Errors
/// `TimedOut` when nothing is left.
pub fn arm(stream: &UnixStream, deadline: Deadline) -> io::Result<()> {
    let left = Some(deadline.left()?);
    stream.set_read_timeout(left)?;
    stream.set_write_timeout(left)
}

/// Reads until a moment, however slowly it is written to.
pub(crate) struct ReadUntil<'s> {
    pub(crate) stream: &'s UnixStream,
    pub(crate) until: Deadline,
}

impl Read for ReadUntil<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        arm(self.stream, self.until)?;
        self.stream.read(buffer)
    }
}

/// `/proc/sys/kernel/random/boot_id`: another one means that everything recorded is dead. Read once:
/// no process sees two.
///
/// # Errors
/// If the file cannot be read.
pub fn boot_id() -> io::Result<String> {
    static KNOWN: OnceLock<String> = OnceLock::new();
    if let Some(known) = KNOWN.get() {
        return Ok(known.clone());
    }
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(KNOWN.get_or_init(|| read.trim().to_owned()).clone())
}

/// A wall-clock time taken apart, UTC. Displayed as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Utc {
    /// 1970 and later.
    pub year: u64,
    /// 1 to 12.
    pub month: u64,
    /// 1 to 31.
    pub day: u64,
    /// 0 to 23.
    pub hour: u64,
    /// 0 to 59.
    pub minute: u64,
    /// 0 to 59: Unix time has no leap seconds.
    pub second: u64,
    /// 0 to 999.
    pub millisecond: u64,
}

impl Utc {
    /// From milliseconds since 1970-01-01 UTC ([`Stamp::wall_ms`]).
    #[must_use]
    pub fn of(wall_ms: u64) -> Self {
        let seconds = wall_ms / 1000;
        // Days since 0000-03-01: with March first, the leap day is a year's last
        // (H. Hinnant, "chrono-compatible low-level date algorithms", civil_from_days).
        let days = seconds / 86_400 + 719_468;
        let era = days / 146_097;
        let of_era = days % 146_097;
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: era * 400 + year_of_era + u64::from(month <= 2),
            month,
            day: of_year - (153 * from_march + 2) / 5 + 1,
            hour: seconds / 3_600 % 24,
            minute: seconds / 60 % 60,
            second: seconds % 60,
            millisecond: wall_ms % 1000,
        }
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, millisecond } = self;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody's age depends on the wall clock, whichever way it jumped between two stamps.
    #[test]
    fn a_wall_clock_that_jumps_ages_nobody() {
        const DAY: u64 = 86_400_000;
        let then = Stamp { boot_ms: 50_000, wall_ms: 2 * DAY };
        for wall_ms in [0, DAY, 2 * DAY, 2 * DAY + 30_000, 3 * DAY, u64::MAX] {
            let now = Stamp { boot_ms: 80_000, wall_ms };
            assert_eq!(then.until(now), Duration::from_secs(30), "{wall_ms}");
            assert_eq!(now.until(then), Duration::ZERO, "{wall_ms}");
        }
        // What has only a wall-clock time (a file) is of this boot and of the past, or unknown.
        let now = Stamp { boot_ms: 80_000, wall_ms: 2 * DAY };
        let of = |wall_ms| Stamp::of_wall(wall_ms, now).map(|stamp| stamp.boot_ms);
        assert_eq!(of(2 * DAY - 30_000), Some(50_000));
        assert_eq!(of(2 * DAY + 1), None, "set back since");
        assert_eq!(of(DAY), None, "set forward since: before this boot");
        assert_eq!(of(2 * DAY - 80_000), Some(0));
    }

    #[test]
    fn moments_are_counted_from_the_boot_either_way() {
        let second = Duration::from_secs(1);
        let boot = BootTime::from(Stamp { boot_ms: 0, wall_ms: 7 });
        let at = BootTime::from(Stamp { boot_ms: 1_000, wall_ms: 7 });
        assert_eq!((boot + second, at - second), (at, boot));
        assert!(boot - second < boot, "an entry may be older than the boot clock says");
        assert_eq!((boot - second).until(at), 2 * second);
        assert_eq!(at.until(boot), Duration::ZERO);
        let most = Duration::MAX;
        assert_eq!((boot + most, boot - most - most), (BootTime::LATEST, BootTime::EARLIEST));
        assert_eq!(BootTime::EARLIEST.until(BootTime::LATEST), Duration::from_nanos(u64::MAX));
        assert!(BootTime::from(Stamp::now()) <= BootTime::now());
    }

    #[test]
    fn utc_agrees_with_date() {
        // Each from `date -u -d @SECONDS +%FT%TZ`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (951_782_399, "2000-02-28T23:59:59.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_709_164_800, "2024-02-29T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (1_795_255_871, "2026-11-21T10:11:11.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(Utc::of(seconds * 1000 + 7).to_string(), text, "{seconds}");
        }
        let _ = Utc::of(u64::MAX).to_string();
    }
}
