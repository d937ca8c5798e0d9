//! Processes, how long they take and how much memory they need.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};

use super::rig::Node;

/// A process to be measured, as often as one likes.
pub(crate) struct Process {
    /// Its command line and environment.
    pub(crate) command: Box<dyn Fn() -> Command + Send + Sync>,
    /// What it reads.
    pub(crate) stdin: PathBuf,
    /// Exit statuses that are good.
    pub(crate) good: &'static [i32],
}

/// What a process took.
pub(crate) struct Took {
    /// From before its start to its end.
    pub(crate) wall: Duration,
    /// Its own processor time.
    pub(crate) cpu: Duration,
}

/// Processor time of the children that were waited for.
fn used_by_children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    [usage.user_time(), usage.system_time()].into_iter().map(duration).sum()
}

fn duration(time: TimeVal) -> Duration {
    Duration::from_micros(u64::try_from(time.num_microseconds()).unwrap())
}

impl Process {
    /// What `command` makes, with this on its standard input.
    pub(crate) fn new(
        node: &Node,
        stdin: &[u8],
        command: impl Fn() -> Command + Send + Sync + 'static,
    ) -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = node.dir.join(format!("stdin-{number}"));
        std::fs::write(&path, stdin).unwrap();
        Self { command: Box::new(command), stdin: path, good: &[0] }
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.stdin(File::open(&self.stdin).unwrap());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// From before its start to its end.
    pub(crate) fn time(&self) -> Duration {
        self.took().wall
    }

    /// The same, with what it used. Right where nobody else waits for a child meanwhile.
    pub(crate) fn took(&self) -> Took {
        let mut command = self.prepared((self.command)());
        let (before, since) = (used_by_children(), Instant::now());
        let status = command.spawn().unwrap().wait().unwrap();
        let wall = since.elapsed();
        assert!(self.good.contains(&status.code().unwrap_or(-1)), "{command:?}: {status}");
        Took { wall, cpu: used_by_children().saturating_sub(before) }
    }

    /// Its peak resident memory in bytes. By way of a small process of ours: what a child
    /// was before it became somebody else counts too, and this one has grown.
    pub(crate) fn peak(&self) -> u64 {
        let real = (self.command)();
        let mut helper = Command::new(std::env::current_exe().unwrap());
        helper.arg("--rusage").arg(real.get_program()).args(real.get_args()).env_clear();
        helper.envs(real.get_envs().filter_map(|(k, v)| Some((k, v?))));
        let mut helper = self.prepared(helper);
        let mut child = helper.stdout(Stdio::piped()).spawn().unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        let status = child.wait().unwrap();
        assert!(self.good.contains(&status.code().unwrap_or(-1)), "{real:?}: {status}");
        text.trim().parse::<u64>().unwrap() * 1024
    }
}

/// The small process: runs a command and says what it needed, in KiB.
pub(crate) fn report_peak(mut args: impl Iterator<Item = std::ffi::OsString>) -> ! {
    let program = args.next().expect("a program");
    let status = Command::new(program).args(args).stdout(Stdio::null()).status().unwrap();
    println!("{}", getrusage(UsageWho::RUSAGE_CHILDREN).unwrap().max_rss());
    std::process::exit(status.code().unwrap_or(-1))
}

/// Runs in a node's namespace; its commands start there without a detour.
pub(crate) fn on<T: Send>(node: &Node, run: impl FnOnce() -> T + Send) -> T {
    let netns = File::open(format!("/run/netns/{}", node.name)).unwrap();
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            run()
        });
        inside.join().unwrap()
    })
}

/// The middle one.
pub(crate) fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
