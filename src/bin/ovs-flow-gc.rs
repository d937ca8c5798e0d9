//! CNI plugin if `CNI_COMMAND` is set, admin command otherwise.

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_some() {
        ovs_flow_gc::cni::main()
    } else {
        ovs_flow_gc::cli::main()
    }
}
