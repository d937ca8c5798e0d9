#!/bin/sh
# Finds the binary (a release has it beside this script) or builds it, and has it put itself on
# this node, or take itself off: what is done, and in which order, is in `ovs-flow-gc self-install`
# and `self-uninstall`. Each command may be run again at any time, also after it was interrupted.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=ovs-flow-gc

usage() {
    cat <<USAGE
usage: install.sh install   [--conflist FILE | --no-conflist] [--preset NAME] [--daemon] [--no-timer] [options]
       install.sh uninstall [--conflist FILE] [--force] [options]
       install.sh demo
       install.sh help

install     binary to /opt/cni/bin, records of the pods that run (adopt), entry into the
            conflist, sweep timer or daemon. Without --conflist: the first file of the
            CNI configuration directory that has an Open vSwitch plugin.
uninstall   entry out of every conflist, timer and daemon off, state and, last, the binary.
demo        shows it on a switch of its own.

  --conflist FILE   the CNI configuration to edit (.conflist, or a single .conf)
  --preset NAME     install: what registers mean in this network: ovs-cni, k-vswitch,
                    openshift-sdn, antrea, ovn
  --settings JSON   install: settings for the entry, as in '{"preset": "antrea"}'
  --own-file        install: the entry in a file of its own beside the conflist, for networks whose
                    agent writes the conflist again (docs/install.md)
  --no-conflist     install: edit no file; the configuration is in NetworkAttachmentDefinitions
                    (docs/multus.md)
  --binary FILE     install: this binary instead of the one beside install.sh or, where there is
                    none, one built by cargo; uninstall: instead of the installed one
  --daemon          the sweeper that runs for good, ovs-flow-gcd in /usr/local/sbin and its
                    unit, in place of the timer
  --daemon-binary FILE
                    the same, with this binary instead of the one beside install.sh or a
                    built one
  --no-timer        leave systemd alone
  --force           uninstall: remove the binary although a runtime may still call it
  --bin-dir DIR     default /opt/cni/bin
  --sbin-dir DIR    default /usr/local/sbin, for the daemon
  --net-dir DIR     default /etc/cni/net.d
  --prefix ROOT     put ROOT before every default path (for tests and images)

exit status: 0 done, 1 failed, 2 wrong usage, 3 done, but something needs attention
USAGE
}

say() { printf '%s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong_usage() { printf 'error: %s\n' "$*" >&2; usage >&2; exit 2; }

# Builds $1, with the options $2 of cargo's, as the user who called sudo: root need not have a
# toolchain, nor own ./target. Prints where cargo says that it put the binary; the target
# directory may be anywhere.
build() {
    command='PATH="$HOME/.cargo/bin:$PATH"; cd "$1" && cargo build --release --locked --bin "$2" $3 --message-format=json-render-diagnostics'
    if [ "$(id -u)" = 0 ] && [ -n "${SUDO_USER:-}" ] && [ "$SUDO_USER" != root ]; then
        sudo -H -u "$SUDO_USER" sh -c "$command" sh "$here" "$1" "${2:-}"
    else
        sh -c "$command" sh "$here" "$1" "${2:-}"
    fi | sed -n 's/.*"reason":"compiler-artifact".*"kind":\["bin"\].*"name":"'"$1"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

# Prints the program $1: the one beside this script, as a release has it, or one that cargo builds,
# with the options $2 of cargo's. $3 is the option that names another.
find_or_build() {
    if [ -f "$here/$1" ] && [ -x "$here/$1" ]; then
        printf '%s\n' "$here/$1"
        return
    fi
    [ -f "$here/Cargo.toml" ] || die "no $1 beside install.sh: nothing was done. Name one with $3 FILE"
    printf '%s: building it from %s\n' "$1" "$here" >&2
    built=$(build "$1" "${2:-}")
    [ -n "$built" ] || die "cargo built no $1 (see above): nothing was done. Take a release, which has it \
beside install.sh, name one with $3 FILE, or install Rust (docs/install.md says which)"
    printf '%s\n' "$built"
}

# What is found is called only if it is a CNI plugin that starts on this node.
must_speak_cni() {
    [ -f "$1" ] || die "$1: no such file"
    printf '{"cniVersion":"1.0.0"}' | CNI_COMMAND=VERSION "$1" 2>/dev/null | grep -q '"supportedVersions"' ||
        die "$1 does not answer CNI VERSION on this node: nothing was done"
}

[ $# -gt 0 ] || wrong_usage "no command"
command=$1
shift
case $command in
install | uninstall) ;;
demo)
    [ -f "$here/conf/demo/demo.sh" ] || die "demo: $here/conf/demo/demo.sh is not there"
    exec bash "$here/conf/demo/demo.sh" "$@"
    ;;
help | -h | --help) usage; exit 0 ;;
*) wrong_usage "no such command: $command" ;;
esac

root='' binary='' daemon_binary='' bin_dir='' net_dir='' daemon=no systemd=--systemd force=''
# What the binary knows as well goes to the end of the words, for it.
words=$#
while [ "$words" -gt 0 ]; do
    option=$1 words=$((words - 1))
    shift
    case $option in
    --conflist | --preset | --settings | --binary | --daemon-binary | --bin-dir | --sbin-dir | --net-dir | --prefix)
        [ "$words" -gt 0 ] && [ -n "$1" ] || wrong_usage "$option needs a value"
        value=$1 words=$((words - 1))
        shift
        case $option in
        --binary)
            case $value in */*) binary=$value ;; *) binary=./$value ;; esac
            ;;
        --daemon-binary) daemon_binary=$value daemon=yes ;;
        --net-dir) net_dir=$value ;;
        --prefix) root=${value%/} ;;
        --preset | --settings)
            [ "$command" = install ] || wrong_usage "$option is for install"
            set -- "$@" "$option" "$value"
            ;;
        --bin-dir) bin_dir=$value && set -- "$@" "$option" "$value" ;;
        *) set -- "$@" "$option" "$value" ;;
        esac
        ;;
    --daemon) daemon=yes ;;
    --no-timer) systemd='' ;;
    --no-conflist | --own-file)
        [ "$command" = install ] || wrong_usage "$option is for install"
        set -- "$@" "$option"
        ;;
    --force) force=--force ;;
    *) wrong_usage "no such option: $option" ;;
    esac
done

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    die "$command changes /opt/cni/bin and /etc: run it as root (sudo $0 $command)"
fi
set -- "self-$command" --root "$root/" --net-dir "${net_dir:=$root/etc/cni/net.d}" $systemd "$@"
[ -n "$systemd" ] || say "systemd: left out (--no-timer)"

if [ "$command" = install ]; then
    [ -n "$binary" ] || binary=$(find_or_build "$name" '' --binary)
    must_speak_cni "$binary"
    if [ "$daemon" = yes ] && [ -z "$daemon_binary" ]; then
        daemon_binary=$(find_or_build "${name}d" "--features daemon" --daemon-binary)
    fi
    exec "$binary" "$@" --adopt-may-fail ${daemon_binary:+--daemon "$daemon_binary"}
fi

installed=${bin_dir:-$root/opt/cni/bin}/$name
if [ -z "$binary" ] && [ ! -x "$installed" ]; then
    # The binary goes last, so nothing should be left.
    left=$(
        grep -rlsF "\"$name\"" "$net_dir" "$root/etc/cni" "$root/etc/kubernetes/cni" \
            "$root/run/multus/cni" "$root/var/lib/rancher/k3s/agent/etc/cni" || :
        ls -d "$root/run/$name" "$root"/etc/systemd/system/"$name"* 2>/dev/null || :
    )
    [ -z "$left" ] || die "$installed is gone, but these are there; pods cannot end while one of them names it. Give a binary with --binary FILE to take them away:
$left"
    say "binary: $installed is not there, nor anything else of $name"
    exit 0
fi
must_speak_cni "${binary:=$installed}"
exec "$binary" "$@" $force
