//! CNI plugin if `CNI_COMMAND` is set, admin command otherwise.
fn main() {}
