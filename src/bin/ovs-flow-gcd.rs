//! `ovs-flow-gcd`: the sweeper that runs for good on every node (see `src/daemon`).

fn main() -> std::process::ExitCode {
    ovs_flow_gc::daemon::main()
}
