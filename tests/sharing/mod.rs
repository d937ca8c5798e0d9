//! What pods share (issue 2, scenario 4): a namespace's VNID, marks in a register. It stays
//! when the first, the second and the last pod ends, on a real switch, read with
//! `ovs-ofctl dump-flows`.

mod marks;
mod tenants;
mod vnid;
