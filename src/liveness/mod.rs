//! Is this attachment's pod alive? Each source answers alive, dead or unknown. Unknown is treated
//! as alive.
//!
//! | source | module |
//! | --- | --- |
//! | the pod's network namespace | [`netns`] |
//! | the container runtime (CRI) | `cri` (feature `daemon`) |
//! | the API server | `kubernetes` (feature `daemon`) |

#[cfg(feature = "daemon")]
pub mod cri;
#[cfg(feature = "daemon")]
pub mod kubernetes;
pub mod mass_death_guard;
pub mod netns;
pub mod observations;

use serde::{Deserialize, Serialize};

use crate::model::attachment::Attachment;
use crate::model::text::text_enum;
use crate::util::clock::Stamp;

text_enum! {
    /// A source of liveness.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(rename_all = "lowercase")]
    pub enum Source {
        /// The network namespace, as ADD recorded it.
        Netns = "netns",
        /// The container runtime.
        Cri = "cri",
        /// The API server.
        Kubernetes = "kubernetes",
    }
}

text_enum! {
    /// Why a source says dead or unknown.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
    pub enum LivenessReason {
        /// Dead: recorded before the node was booted.
        OtherBoot = "the node was booted since",
        /// Dead: the namespace's file is gone from the directory it was in.
        NetnsGone = "its network namespace is gone",
        /// Dead: another namespace has the path now.
        NetnsReplaced = "another network namespace has its path",
        /// Dead: the process whose namespace it was has ended.
        ProcessGone = "the process that had its network namespace has ended",
        /// Dead: another process has the PID now.
        ProcessReplaced = "another network namespace is behind its process id",
        /// The runtime named no namespace.
        NoNetns = "no network namespace was recorded",
        /// The directory is not there: unmounted, or not mounted into this container.
        DirectoryGone = "the directory of its network namespace is not there",
        /// Another directory has the name: unmounted, or a container of its own.
        OtherDirectory = "the directory of its network namespace is not the one that was recorded",
        /// Another device: not the kernel's namespace file system as ADD saw it.
        OtherDevice = "its network namespace is on another device",
        /// A plain file: seen from a container without mount propagation.
        NotANamespace =
            "its path is not a namespace (seen from a container without mount propagation?)",
        /// The same namespace number, but its file is younger than the record: numbers are
        /// re-used, and namespaces are mounted anew.
        Remounted = "its network namespace was mounted after it was recorded",
        /// A symbolic link that leads nowhere, or elsewhere, from here.
        Link = "its path is a symbolic link that does not lead to it from here",
        /// A path in /proc that names no process, or ourselves.
        OddProcPath = "its path in /proc does not name a process",
        /// A path in /proc, but ADD ran in another PID namespace.
        OtherPidNamespace = "its path in /proc is of another PID namespace",
        /// The process exists but /proc hides it (hidepid).
        Hidden = "/proc does not show its process (hidepid?)",
        /// Permission denied.
        Denied = "its network namespace may not be looked at",
        /// Any other error.
        Failed = "its network namespace cannot be looked at",
        /// No source has been asked.
        NobodyAsked = "no source of liveness was asked",
        /// Dead: the runtime does not know the sandbox any more.
        SandboxGone = "the container runtime does not know its sandbox any more",
        /// Dead: the sandbox is not ready and its network namespace is gone.
        SandboxStopped = "its sandbox is stopped and its network namespace is gone",
        /// Dead: the pod, by its UID, is not on this node any more.
        PodGone = "its pod is not on this node any more",
        /// Dead: the pod has Failed (evicted) or Succeeded, and its sandbox is stopped.
        PodEnded = "its pod has ended and its sandbox is stopped",
        /// The pod has ended, but nobody shows that its sandbox is stopped.
        SandboxMayRun = "its pod has ended, but its sandbox may still run",
        /// The source is away, or has not answered completely yet.
        SourceAway = "the source does not answer",
        /// The runtime has the sandbox not ready, but its network namespace is still there.
        SandboxNotReady = "its sandbox is not ready, but its network namespace is still there",
        /// The source never saw it alive.
        NeverSeen = "the source never saw it alive",
        /// One observation says dead; the next one counts.
        SeenOnce = "only one observation says that it is dead",
        /// Younger than the grace of 30 s.
        Young = "it is younger than 30 s",
    }
}

/// A source's answer, and that of all of them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Liveness {
    /// Its pod is alive.
    Alive,
    /// Its pod is dead.
    Dead(LivenessReason),
    /// Unknown, which is treated as alive.
    Unknown(LivenessReason),
}

impl Liveness {
    /// Whether it is dead.
    #[must_use]
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Dead(_))
    }
}

/// A source that watches: it answers at once, from its last observation.
pub trait LivenessSource: Send + Sync {
    /// Which source it is.
    fn source(&self) -> Source;
    /// Observes again, and waits a moment for the answer. Called when a namespace is gone: an
    /// older observation may still show the pod alive.
    fn refresh(&self) {}
    /// What it says of a record now.
    fn judge(&self, record: &Attachment, now: Stamp) -> Liveness;
    /// The workload of a record's pod, as [`Attachment::workload`] has it; `None`: unknown.
    fn workload(&self, _: &Attachment) -> Option<String> {
        None
    }
}

/// What all sources say together, and which of them say dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The answer.
    pub life: Liveness,
    /// The sources that say dead; empty if it is not dead, or dead by another boot. With a single
    /// source, the death counts for the [`mass_death_guard`].
    pub dead_by: Vec<Source>,
}

/// Combines the answers of the sources. After another boot the pod is dead. A sandbox that is
/// ready in the runtime means alive, whatever others say. Else one source that says dead is
/// enough, and unknown counts for nothing. A namespace that exists does not mean alive: an orphan
/// may leave its namespace behind.
#[must_use]
pub fn combine(answers: &[(Source, Liveness)]) -> Judged {
    let judged = |life, dead_by| Judged { life, dead_by };
    if answers.iter().any(|(_, life)| *life == Liveness::Dead(LivenessReason::OtherBoot)) {
        return judged(Liveness::Dead(LivenessReason::OtherBoot), Vec::new());
    }
    if answers.contains(&(Source::Cri, Liveness::Alive)) {
        return judged(Liveness::Alive, Vec::new());
    }
    let dead = answers.iter().filter(|(_, life)| life.is_dead());
    if let Some((_, life)) = dead.clone().next() {
        return judged(*life, dead.map(|(source, _)| *source).collect());
    }
    let first =
        answers.first().map_or(Liveness::Unknown(LivenessReason::NobodyAsked), |(_, life)| *life);
    let alive = answers.iter().any(|(_, life)| *life == Liveness::Alive);
    judged(if alive { Liveness::Alive } else { first }, Vec::new())
}

#[cfg(test)]
mod tests {
    use super::Liveness::{Alive, Dead, Unknown};
    use super::Source::{Cri, Kubernetes, Netns};
    use super::*;

    #[test]
    fn answers_are_combined() {
        let (gone, denied) = (Dead(LivenessReason::NetnsGone), Unknown(LivenessReason::Denied));
        let ended = Dead(LivenessReason::ProcessGone);
        type Case<'a> = (&'a [(Source, Liveness)], Liveness, &'a [Source]);
        let cases: &[Case<'_>] = &[
            (&[], Unknown(LivenessReason::NobodyAsked), &[]),
            (&[(Netns, denied)], denied, &[]),
            (&[(Netns, Alive)], Alive, &[]),
            (&[(Netns, gone)], gone, &[Netns]),
            (&[(Netns, gone), (Cri, Alive)], Alive, &[]),
            (&[(Kubernetes, ended), (Netns, gone), (Cri, Alive)], Alive, &[]),
            (&[(Netns, gone), (Cri, denied)], gone, &[Netns]),
            (&[(Netns, gone), (Kubernetes, ended)], gone, &[Netns, Kubernetes]),
            (&[(Netns, Alive), (Kubernetes, ended)], ended, &[Kubernetes]),
            (&[(Netns, denied), (Kubernetes, Alive)], Alive, &[]),
            (
                &[(Netns, Dead(LivenessReason::OtherBoot)), (Cri, Alive)],
                Dead(LivenessReason::OtherBoot),
                &[],
            ),
        ];
        for (answers, life, by) in cases {
            let judged = combine(answers);
            assert_eq!((judged.life, &judged.dead_by[..]), (*life, *by), "{answers:?}");
        }
    }
}
