//! Register values of the dead, learned while the flows that load them are still there.

use log::warn;

use super::report::Report;
use super::{Engine, Scene, Target, World};
use crate::attachment::{Register, RegisterHow};
use crate::config::Reg0;
use crate::stale::Learned;

/// Register values that this look learned of the dead (by index of their targets). The flows
/// that load a value go first of all; what is found of it later must still be known as the
/// dead pod's.
pub(super) fn of_dead(
    world: &World,
    scene: &Scene,
    learned: &Learned,
    targets: &[Target],
    report: &mut Report,
) -> Vec<(usize, Register)> {
    let mut values = Vec::new();
    for (target, value) in scene.dead_of.iter().zip(&learned.dead_registers) {
        let (Some(record), Some(value)) = (targets.get(*target).map(|t| &t.attachment), *value)
        else {
            continue;
        };
        let learns = matches!(world.config(&record.key.network).reg0, Reg0::Learn | Reg0::Pod);
        if learns && record.register.is_none() {
            let register = Register { value, how: RegisterHow::Learned };
            if let Some(of) = report.targets.get_mut(*target) {
                of.register = Some(register);
            }
            values.push((*target, register));
        }
    }
    values
}

/// Before the deletes are sent: we may be killed before the records are settled.
pub(super) fn write_down(engine: &Engine<'_>, values: &[(usize, Register)], targets: &[Target]) {
    let (Some(registry), false) = (engine.registry, values.is_empty()) else { return };
    let written = registry.lock(engine.deadline).and_then(|lock| {
        for (target, register) in values {
            if let Some(target) = targets.get(*target) {
                lock.update(&target.attachment, |record| record.register = Some(*register))?;
            }
        }
        Ok(())
    });
    if let Err(failed) = written {
        warn!("could not write down what was learned: {failed}");
    }
}
