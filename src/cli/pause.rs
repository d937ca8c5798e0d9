//! `pause` and `resume`: one file decides for everything on this node.

use serde_json::json;

use super::{Context, Error, Exit, output};
use crate::store::Registry;

pub(super) fn run(context: &Context, paused: bool) -> Result<Exit, Error> {
    let registry = Registry::open(&context.state_dir)?;
    registry.set_paused(paused)?;
    let text = if paused {
        "paused: nothing on this node is deleted, DELs are remembered (`ovs-flow-gc resume` ends it)"
    } else {
        "resumed: the next sweep does what was put off"
    };
    output::say(context, &json!({ "paused": paused }), text)?;
    Ok(Exit::Done)
}
