#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = ovs_flow_gc::fuzzing::flow_replica(data);
});
