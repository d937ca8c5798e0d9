#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests, and what helps them, may fail this way"
)]

mod rig;
use rig::*;

#[test]
fn a_sandbox() {
    let node = Node::new("cri_a_sandbox");
    let runtime = Runtime::start(&node);
    let web = runtime.run_sandbox("web");
    eprintln!("{web:?} {:?} {:?}", node.calls(), runtime.try_list());
    runtime.stop_sandbox(&web);
    eprintln!("{:?} {:?}", node.calls(), runtime.try_list());
    runtime.remove_sandbox(&web);
    eprintln!("{:?} {:?}", node.calls(), runtime.try_list());
}
