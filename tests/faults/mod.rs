//! Everything that ADD, DEL, GC, CHECK, STATUS and a sweep ask of the kernel, of the switch and of
//! its database goes wrong once, in turn; afterwards the promises hold, and the next undisturbed
//! sweep finishes.
//!
//! | part | what it does |
//! | --- | --- |
//! | [`syscalls`] | every system call fails once (`strace -e inject`); every file is cut short |
//! | [`messages`] | every message is cut, delayed, doubled, refused, split, or the end of its connection ([`proxy`]) |
//! | [`daemon`] | the same for the daemon's start and its first sweep |
//! | [`fixture`] | a real switch, pods on it, and their state as it is put back before each run |
//! | [`verbs`] | the calls, what they are about, and what must be true after each |
//! | [`checks`] | what they said, and the summary |
//!
//! `OFG_FAULTS`: not set, every second call and every message goes wrong in one way, by turns
//! (about a minute), of GC's fewer; `all`: every one in every way (about six minutes, and five more
//! for GC, CHECK and STATUS); anything else: only the
//! faults whose description has this text, e.g. `OFG_FAULTS="Del openat 7 EIO"`. The distinct
//! messages of a run are in `faults-*.txt` in cargo's target/tmp, for reading.

mod checks;
mod daemon;
mod fixture;
mod messages;
mod proxy;
mod syscalls;
mod verbs;
