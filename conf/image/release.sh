#!/bin/sh
# `cargo build --release --locked` without a trace of where it was built: the same commit and the
# same toolchain make the same bytes anywhere (reproduce.sh shows it).
#
#   conf/image/release.sh [CARGO'S OPTIONS]        e.g. --features daemon --bin ovs-flow-gcd
#
# Panic messages name the crates' source files. What differs from one builder to the next in those
# paths is replaced, and flags of the environment's, which would come into the place of ours, are
# not taken.
#
# Relative relocations are packed (a fiftieth of the plugin's size). The builder's static libc must
# know how to read them: glibc 2.36 or newer. With another one the binary does not start.
set -eu
cd "$(dirname -- "$0")/../.."
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_BUILD_RUSTFLAGS
commit=$(rustc -vV | sed -n 's/^commit-hash: //p')
# What `ovs-flow-gc version` says. Not in a copy of the sources without git, nor in somebody else's clone.
OVS_FLOW_GC_COMMIT=$(git describe --always --dirty --abbrev=12 --exclude='*' 2>/dev/null || echo unknown)
export OVS_FLOW_GC_COMMIT
remap() { printf '"--remap-path-prefix=%s=%s",' "$1" "$2"; }
exec cargo build --release --locked --config "target.'cfg(all())'.rustflags = [$(
    printf '"-C","link-arg=-Wl,-z,pack-relative-relocs",'
    # Functions are less readily copied to where they are called (usual is 225): the plugin has 200 kB
    # less. With 40 it was no slower (`cargo bench -- paired`).
    printf '"-C","llvm-args=--inline-threshold=25",'
    remap "${CARGO_HOME:-$HOME/.cargo}" /cargo
    remap "$(pwd -P)" /ovs-flow-gc
    # The standard library's sources, where they are installed.
    remap "$(rustc --print sysroot)/lib/rustlib/src/rust" "/rustc/$commit"
)]" "$@"
