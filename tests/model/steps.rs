//! What can happen on a node, as proptest makes it up and makes it shorter. A step picks among
//! those it may be about by a number, modulo their count: whatever is left out of a list, the
//! rest of it still means something.

use proptest::prelude::*;

use super::controllers::ODDITIES;

/// When a controller installs a pod's entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    /// As soon as it sees the port, before ADD.
    Quick,
    /// After ADD.
    Usual,
    /// At some [`Step::Install`].
    Late,
}

/// How long nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// A tenth of the linger time.
    Short,
    /// The linger time.
    Linger,
    /// So long that nothing is waited for any more (only where time costs nothing).
    Long,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// A sandbox and its port: the OVS plugin's ADD.
    Plug { number: u8, address: u8, value: u8, when: When, slow: bool },
    /// Our ADD. `crash`: 0 is none.
    Add { pod: u8, crash: u8, meanwhile: Vec<Step> },
    /// A late controller installs what it owes, or what a new port number makes of it.
    Install { pod: u8 },
    /// Our DEL, the first or again.
    Del { pod: u8, crash: u8, meanwhile: Vec<Step> },
    /// The OVS plugin's DEL behind it, and the end of the sandbox.
    Unplug { pod: u8 },
    /// The sandbox is gone without a DEL; with its port's row or not.
    Vanish { pod: u8, row: bool },
    /// Somebody removes the row of a pod that vanished.
    Reap { pod: u8 },
    /// A slow controller puts some of a dead pod's entries back.
    PutBack { pod: u8, some: u8 },
    /// A controller that thinks in sets takes the pod into one.
    Member { pod: u8, peer: u8, kind: u8 },
    /// An entry that names a pod in another way.
    Odd { pod: u8, kind: u8 },
    /// A service's address is rewritten to a pod's: its entry is made, or modified.
    Service { service: u8, pod: u8 },
    /// A living pod has a rule of its own for another one's address.
    Rule { pod: u8, peer: u8, kind: u8 },
    /// A port of somebody's outside our chain, marked by its CNI or not. It has its entries at once.
    UnrecordedPort { number: u8, address: u8, value: u8, marked: bool },
    /// The operator's own rules for a port number and an address that only some pods ask for.
    Operator { kinds: u8 },
    /// A pod that asks for them, a long time after.
    Slot { value: u8, when: When },
    /// It goes, with its port.
    Leave { pod: u8 },
    /// A living pod's port is deleted and added anew, with another row and number.
    Reattach { pod: u8, number: u8 },
    /// The pod of a virtual machine.
    Machine { number: u8, address: u8, value: u8, when: When },
    /// The machine is on another node now; its pod here is to end.
    Migrate { pod: u8, kinds: u8 },
    /// The machine ends there.
    MachineEnds { machine: u8 },
    /// An interface is given another number; who has it gets the first one's.
    Renumber { pod: u8, number: u8 },
    /// The numbers that are waited for come.
    Numbers,
    /// The state directory is removed, and the pods that run are adopted (only where time costs
    /// nothing).
    Forget,
    /// ovs-vswitchd restarts: entries put back in bulk or lost, numbers turned round.
    Restart { restored: bool, turn: u8 },
    /// A sweep; `hasty`: only of what the dead are known by.
    Sweep { hasty: bool, crash: u8, meanwhile: Vec<Step> },
    /// Time passes.
    Wait { pause: Pause },
}

/// One step, and what happens while ours looks at the switch.
pub(crate) fn step() -> impl Strategy<Value = Step> {
    steps(|| plain().boxed())
}

/// The same with everything that can happen where others write the pipeline.
pub(crate) fn wide_step() -> impl Strategy<Value = Step> {
    steps(|| prop_oneof![5 => plain(), 2 => wide()].boxed())
}

/// The same where records are lost.
pub(crate) fn forgetful_step() -> impl Strategy<Value = Step> {
    let forget = || Just(Step::Forget).boxed();
    steps(move || prop_oneof![16 => plain(), 4 => wide(), 1 => forget()].boxed())
}

fn steps(plain: impl Fn() -> BoxedStrategy<Step>) -> impl Strategy<Value = Step> {
    let crash = || prop_oneof![7 => Just(0u8), 1 => 1..=9u8];
    let meanwhile = || {
        let some = prop::collection::vec(plain(), 1..4);
        prop_oneof![4 => Just(Vec::new()), 1 => some]
    };
    prop_oneof![
        20 => plain(),
        6 => (any::<u8>(), crash(), meanwhile())
            .prop_map(|(pod, crash, meanwhile)| Step::Add { pod, crash, meanwhile }),
        4 => (any::<u8>(), crash(), meanwhile())
            .prop_map(|(pod, crash, meanwhile)| Step::Del { pod, crash, meanwhile }),
        5 => (any::<bool>(), crash(), meanwhile())
            .prop_map(|(hasty, crash, meanwhile)| Step::Sweep { hasty, crash, meanwhile }),
    ]
}

/// What only a wide walk has.
fn wide() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<u8>(), any::<u8>()).prop_map(|(service, pod)| Step::Service { service, pod }),
        3 => (any::<u8>(), any::<u8>(), any::<u8>())
            .prop_map(|(pod, peer, kind)| Step::Rule { pod, peer, kind }),
        2 => (any::<u8>(), 8..ODDITIES).prop_map(|(pod, kind)| Step::Odd { pod, kind }),
        3 => (any::<u8>(), any::<u8>(), any::<u8>(), any::<bool>()).prop_map(
            |(number, address, value, marked)| Step::UnrecordedPort { number, address, value, marked }
        ),
        2 => any::<u8>().prop_map(|pod| Step::Leave { pod }),
        1 => any::<u8>().prop_map(|kinds| Step::Operator { kinds }),
        2 => any::<u8>().prop_map(|value| Step::Slot { value, when: When::Usual }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(pod, number)| Step::Reattach { pod, number }),
        2 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(number, address, value)| {
            Step::Machine { number, address, value, when: When::Usual }
        }),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(pod, kinds)| Step::Migrate { pod, kinds }),
        1 => any::<u8>().prop_map(|machine| Step::MachineEnds { machine }),
    ]
}

/// A step that nothing happens during.
fn plain() -> impl Strategy<Value = Step> {
    let when = prop_oneof![2 => Just(When::Quick), 4 => Just(When::Usual), 2 => Just(When::Late)];
    let slow = prop_oneof![9 => Just(false), 1 => Just(true)];
    let pause =
        prop_oneof![4 => Just(Pause::Short), 3 => Just(Pause::Linger), 1 => Just(Pause::Long)];
    let two = || (any::<u8>(), any::<u8>());
    prop_oneof![
        8 => (any::<u8>(), any::<u8>(), any::<u8>(), when, slow).prop_map(
            |(number, address, value, when, slow)| Step::Plug { number, address, value, when, slow }
        ),
        6 => any::<u8>().prop_map(|pod| Step::Add { pod, crash: 0, meanwhile: Vec::new() }),
        4 => any::<u8>().prop_map(|pod| Step::Install { pod }),
        2 => any::<u8>().prop_map(|pod| Step::Del { pod, crash: 0, meanwhile: Vec::new() }),
        5 => any::<u8>().prop_map(|pod| Step::Unplug { pod }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(pod, row)| Step::Vanish { pod, row }),
        3 => any::<u8>().prop_map(|pod| Step::Reap { pod }),
        3 => two().prop_map(|(pod, some)| Step::PutBack { pod, some }),
        3 => (any::<u8>(), any::<u8>(), 0..3u8)
            .prop_map(|(pod, peer, kind)| Step::Member { pod, peer, kind }),
        3 => (any::<u8>(), 0..8u8).prop_map(|(pod, kind)| Step::Odd { pod, kind }),
        1 => two().prop_map(|(pod, number)| Step::Renumber { pod, number }),
        2 => Just(Step::Numbers),
        1 => (any::<bool>(), 0..3u8).prop_map(|(restored, turn)| Step::Restart { restored, turn }),
        3 => any::<bool>().prop_map(|hasty| Step::Sweep { hasty, crash: 0, meanwhile: Vec::new() }),
        3 => pause.prop_map(|pause| Step::Wait { pause }),
    ]
}
