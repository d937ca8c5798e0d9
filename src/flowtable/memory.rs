//! Whether a copy of a bridge fits into the memory that this process may use.
//!
//! The limit is that of the control group (cgroup v2; `MemoryMax=` of a unit, a container's limit)
//! unless it is given. A process that reaches it is killed, so an eighth of it is left free: for
//! sweeps, and for the pages of the state directory where that is in memory.

use std::fs;
use std::path::{Path, PathBuf};

/// What an entry takes in a copy, with its place in the index: 30 MB were measured for 100,000.
const BYTES_OF_ENTRY: u64 = 320;

/// What may be used, and what is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes.
    pub limit: u64,
    /// Bytes that cannot be taken back: without the cache of files.
    pub used: u64,
}

impl Memory {
    /// Whether a copy of so many entries fits.
    #[must_use]
    pub fn fits(self, entries: u64) -> bool {
        let wanted = self.used.saturating_add(entries.saturating_mul(BYTES_OF_ENTRY));
        wanted <= self.limit - self.limit / 8
    }

    /// Whether copies that are there must go: half of what is to be left free is used.
    #[must_use]
    pub fn is_short(self) -> bool {
        self.used > self.limit - self.limit / 16
    }

    fn left(self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// Where the limit is known from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// It is given, in bytes. What is used is what this process has in memory.
    Given(u64),
    /// This process's control group and those above it have limits, or have none.
    Group {
        /// Where control groups are.
        root: PathBuf,
    },
}

impl Default for MemoryLimit {
    fn default() -> Self {
        Self::Group { root: PathBuf::from("/sys/fs/cgroup") }
    }
}

impl MemoryLimit {
    /// As of now; `None`: there is no limit, as far as can be told.
    #[must_use]
    pub fn now(&self) -> Option<Memory> {
        match self {
            Self::Given(limit) => {
                let statm = fs::read_to_string("/proc/self/statm").ok()?;
                let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
                Some(Memory { limit: *limit, used: pages.saturating_mul(4096) })
            }
            Self::Group { root } => {
                let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
                of_group(root, groups.lines().find_map(|line| line.strip_prefix("0::/"))?)
            }
        }
    }
}

/// That of the group, or of one above it, which has the least left.
fn of_group(root: &Path, group: &str) -> Option<Memory> {
    let own = root.join(group);
    let groups = own.ancestors().take_while(|path| path.starts_with(root));
    groups.filter_map(of_directory).min_by_key(|memory| memory.left())
}

fn of_directory(path: &Path) -> Option<Memory> {
    let number = |name| fs::read_to_string(path.join(name)).ok()?.trim().parse::<u64>().ok();
    // One without a limit says "max".
    let limit = [number("memory.max"), number("memory.high")].into_iter().flatten().min()?;
    let stat = fs::read_to_string(path.join("memory.stat")).unwrap_or_default();
    let cached = |name: &str| {
        let mut lines = stat.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(key, _)| *key == name).and_then(|(_, bytes)| bytes.parse::<u64>().ok())
    };
    let cache = ["inactive_file", "active_file"].into_iter().filter_map(cached).sum();
    Some(Memory { limit, used: number("memory.current")?.saturating_sub(cache) })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn a_copy_fits_if_an_eighth_stays_free() {
        let memory = |used| Memory { limit: 128 * MB, used };
        assert!(memory(20 * MB).fits(200_000) && !memory(80 * MB).fits(200_000));
        assert!(memory(20 * MB).fits(0) && !memory(20 * MB).fits(1_000_000));
        assert!(memory(112 * MB).fits(0) && !memory(112 * MB + 1).fits(0));
        assert!(!memory(120 * MB).is_short() && memory(120 * MB + 1).is_short());
        assert!(!Memory { limit: 0, used: 1 }.fits(u64::MAX));
        assert!(MemoryLimit::Given(1).now().unwrap().is_short());
    }

    #[test]
    fn the_group_with_the_least_left_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (root, unit) = (dir.path(), dir.path().join("system.slice/gcd.service"));
        fs::create_dir_all(&unit).unwrap();
        let group = "system.slice/gcd.service";
        assert_eq!(of_group(root, group), None, "no group has a limit");
        let put = |path: &Path, name: &str, text: &str| {
            let mut file = fs::File::create(path.join(name)).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        put(&unit, "memory.max", "max\n");
        assert_eq!(of_group(root, group), None);
        put(&unit, "memory.max", "1000\n");
        put(&unit, "memory.current", "700\n");
        put(&unit, "memory.stat", "anon 500\ninactive_file 90\nactive_file 10\n");
        assert_eq!(of_group(root, group), Some(Memory { limit: 1000, used: 600 }));
        put(&unit, "memory.high", "900\n");
        assert_eq!(of_group(root, group), Some(Memory { limit: 900, used: 600 }));
        let slice = root.join("system.slice");
        put(&slice, "memory.max", "5000\n");
        put(&slice, "memory.current", "4900\n");
        assert_eq!(of_group(root, group), Some(Memory { limit: 5000, used: 4900 }));
        // As a container sees its own.
        assert_eq!(of_group(&unit, ""), Some(Memory { limit: 900, used: 600 }));
    }
}
