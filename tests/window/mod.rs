//! The window between the scan of an entry and its deletion: controllers that put the same
//! entry anew in it, on purpose, thousands of times. Needs root and Open vSwitch.

mod fixture;
mod proxy;
mod race;
mod told;
mod width;
