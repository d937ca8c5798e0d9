//! What a dead pod had, others have now (issue 2, scenario 5): its port number, its address,
//! both; here, on another VLAN, on another node. Nobody alive loses an entry, on a real
//! switch, read with `ovs-ofctl dump-flows` and shown with ping.

mod addresses;
mod elsewhere;
mod fixture;
mod nobodys;
mod policy;
mod ports;
mod results;
mod scope;
mod unrecorded;
