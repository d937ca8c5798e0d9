#!/bin/sh
# Runs every test on this machine: sudo ./tests/run.sh [cargo test's arguments]
#
#   sudo ./tests/run.sh                 all tests
#   sudo ./tests/run.sh orphan          those with "orphan" in their name
#   sudo ./tests/run.sh --setup         only install what the tests need
#
# Needs root: the tests make network namespaces and run an Open vSwitch of their own in each.
# Installs Debian packages that are missing; starts no service and touches none that runs.
# OFG_KEEP=1 keeps what the tests made, for looking around; the next run takes it away.
# TEST_THREADS (4): how many tests at once.
set -eu
cd "$(dirname "$0")/.."

say() { printf '== %s\n' "$*"; }
die() { printf 'tests/run.sh: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "needs root: sudo ./tests/run.sh"

# A file that is there when the package is, and the package.
packages() {
    while read -r file package; do
        [ -e "$file" ] || printf '%s ' "$package"
    done <<'LIST'
/usr/sbin/ovs-vswitchd openvswitch-switch
/usr/bin/ovs-ofctl openvswitch-common
/usr/lib/cni/host-local containernetworking-plugins
/usr/bin/ctr containerd
/usr/sbin/runc runc
/bin/busybox busybox-static
/usr/bin/ip iproute2
/usr/bin/ping iputils-ping
/usr/bin/gcc gcc
/usr/include/stdlib.h libc6-dev
/usr/bin/unshare util-linux
/usr/bin/strace strace
/usr/bin/protoc protobuf-compiler
/usr/bin/promtool prometheus
/usr/bin/kubectl kubernetes-client
/usr/lib/python3/dist-packages/yaml/__init__.py python3-yaml
/usr/bin/buildah buildah
/usr/bin/jq jq
/usr/bin/chromium chromium
/usr/bin/rpmbuild rpm
LIST
}

policy=/usr/sbin/policy-rc.d

install_packages() {
    missing=$(packages)
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null || die "missing, and no apt-get to install it: $missing"
    say "installing $missing"
    # Their services would take the sockets and the namespaces of a node that has none.
    if [ ! -e $policy ]; then
        trap 'rm -f $policy' EXIT
        trap 'exit 1' HUP INT TERM
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        ours=yes
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -qq -y --no-install-recommends --no-upgrade $missing >/dev/null
    if [ "${ours:-no}" = yes ]; then
        rm -f $policy
        trap - EXIT HUP INT TERM
    fi
    missing=$(packages)
    [ -z "$missing" ] || die "still missing after the installation: $missing"
}

# sudo takes PATH and HOME away: look where rustup put cargo for whoever called it.
find_cargo() {
    home=${HOME:-/root}
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        home=$(getent passwd "$SUDO_USER" | cut -d: -f6)
    fi
    for bin in "${CARGO_HOME:-$home/.cargo}/bin" "$home/.cargo/bin" /root/.cargo/bin \
        /usr/local/cargo/bin; do
        command -v cargo >/dev/null && break
        [ -x "$bin/cargo" ] || continue
        PATH=$bin:$PATH
        # rustup's proxies look under HOME for their toolchains.
        root=$(dirname "$(dirname "$bin")")
        [ -d "$root/.rustup" ] && export RUSTUP_HOME="${RUSTUP_HOME:-$root/.rustup}"
        [ -d "$root/.cargo" ] && export CARGO_HOME="${CARGO_HOME:-$root/.cargo}"
    done
    export PATH
    command -v cargo >/dev/null || die "no cargo: install Rust, see https://rustup.rs"
}

# What belongs on disk to the caller of sudo stays his.
as_caller() {
    if [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        runuser -u "$SUDO_USER" -- env HOME="$home" PATH="$PATH" "$@"
    else
        "$@"
    fi
}

# What test processes that are gone (killed, or OFG_KEEP) left: a namespace ofg-PID-…, a
# directory of that name, or both. Prints their names.
leftovers() {
    for path in /run/netns/ofg-* /tmp/ofg-*; do
        name=${path##*/}
        pid=${name#ofg-}
        pid=${pid%%-*}
        if [ ! -e "$path" ] || [ -e "/proc/$pid" ]; then continue; fi
        echo "$name"
    done | sort -u
}

clean() {
    for name in $(leftovers); do
        if [ -e "/run/netns/$name" ]; then
            for pid in $(ip netns pids "$name"); do kill -9 "$pid" 2>/dev/null || :; done
            ip netns del "$name"
        fi
        # Bind mounts of namespaces and small tmpfs keep a directory busy; what is mounted
        # last goes first.
        awk -v dir="/tmp/$name" 'index($5 "/", dir "/") == 1 { print $5 }' /proc/self/mountinfo |
            sort -r | while read -r mount; do umount -l "$mount" || :; done
        rm -rf "/tmp/${name:?}" || say "could not remove /tmp/$name: look what holds it"
    done
}

install_packages
[ "${1:-}" = --setup ] && exit 0
find_cargo
clean

say "building"
as_caller cargo test --no-run --quiet
say "testing"
status=0
cargo test --no-fail-fast "$@" -- --test-threads="${TEST_THREADS:-4}" || status=$?

left=$(leftovers)
if [ -n "$left" ] && [ -z "${OFG_KEEP:-}" ]; then
    clean
    # shellcheck disable=SC2086
    say "tests left these namespaces behind:" $left
    [ $status != 0 ] || status=1
fi
exit $status
