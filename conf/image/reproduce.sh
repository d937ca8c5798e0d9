#!/bin/sh
# Builds the release binaries of a commit twice, as differently as one machine allows (directory,
# target directory, cargo home, umask, locale, time zone, number of jobs), compares them to the
# byte, and looks for the builder's paths in them.
#
#   conf/image/reproduce.sh [--daemon] [COMMIT]        the plugin, or the daemon as well; HEAD
#
# Needs git and the crates in cargo's registry (or a network). Takes two release builds.
# Exit status: 0 the same, 1 not.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
die() { printf 'reproduce.sh: %s\n' "$*" >&2; exit 1; }

daemon='' commit=HEAD
for argument; do
    case $argument in
    --daemon) daemon=yes ;;
    -*) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0"; exit 2 ;;
    *) commit=$argument ;;
    esac
done
commit=$(git -C "$repository" rev-parse --verify "$commit^{commit}")
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
trap 'exit 1' HUP INT TERM

# The same crates below another path.
home=${CARGO_HOME:-$HOME/.cargo}
mkdir -p "$home/registry" "$work/another cargo home"
ln -s "$home/registry" "$work/another cargo home/registry"

# Builds in the directory $1 with the target directory $2 and the cargo home $3.
build() (
    git clone --quiet --no-checkout "$repository" "$1"
    git -C "$1" checkout --quiet "$commit"
    export CARGO_TARGET_DIR="$2" CARGO_HOME="$3"
    host=$(rustc -vV | sed -n 's/^host: //p')
    "$1/conf/image/release.sh" --quiet --bin ovs-flow-gc
    mkdir "$1.built"
    mv -- "$2/$host/release/ovs-flow-gc" "$1.built"
    [ -n "$daemon" ] || exit 0
    "$1/conf/image/release.sh" --quiet --features daemon --bin ovs-flow-gcd
    mv -- "$2/$host/release/ovs-flow-gcd" "$1.built"
)
build "$work/one" "$work/one/target" "$home"
(
    umask 077
    export LC_ALL=C TZ=Asia/Kathmandu CARGO_BUILD_JOBS=1
    mkdir -p "$work/somewhere/quite/else"
    build "$work/somewhere/quite/else/another checkout" "$work/targets" "$work/another cargo home"
)

status=0
for first in "$work/one.built"/*; do
    name=$(basename "$first")
    second="$work/somewhere/quite/else/another checkout.built/$name"
    sums=$(sha256sum <"$first")$(sha256sum <"$second")
    if cmp -s "$first" "$second"; then
        printf '%s  %s, twice\n' "${sums%% *}" "$name"
    else
        printf '%s: NOT the same\n%s\n' "$name" "$sums" >&2
        status=1
    fi
    for path in "$work" "$home" "$(rustc --print sysroot)"; do
        if found=$(grep -aoF -m 3 -- "$path" "$first" "$second"); then
            printf '%s: has paths of the builder: %s\n' "$name" "$found" >&2
            status=1
        fi
    done
done
exit $status
