#!/bin/sh
# Puts ovs-flow-gc on this node, or takes it off. Each command may be run again at any time, also
# after it was interrupted: every step looks first and says what it did.
#
# The order is the point. A conflist that names a binary which is not there fails every ADD and,
# worse, every DEL of the node. So: binary before entry, and entry out before binary.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
name=ovs-flow-gc
units="$name-sweep.service $name-sweep.timer"
daemon_name=${name}d
daemon_unit=$daemon_name.service

usage() {
    cat <<USAGE
usage: install.sh install   [--conflist FILE] [--binary FILE] [--daemon] [--no-timer] [options]
       install.sh uninstall [--conflist FILE] [--force] [options]
       install.sh demo
       install.sh help

install     binary to /opt/cni/bin, records of the pods that run (adopt), entry into the
            conflist, sweep timer or daemon. Without --conflist: the first file of the
            CNI configuration directory that has an Open vSwitch plugin.
uninstall   entry out of every conflist, timer and daemon off, state and, last, the binary.
demo        shows it on a switch of its own.

  --conflist FILE   the CNI configuration to edit (.conflist, or a single .conf)
  --binary FILE     install this binary instead of building one
  --daemon          the sweeper that runs for good, ovs-flow-gcd in /usr/local/sbin and its
                    unit, in place of the timer
  --daemon-binary FILE
                    the same, with this binary instead of building one
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
warn() { printf 'warning: %s\n' "$*" >&2; attention=1; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
wrong_usage() { printf 'error: %s\n' "$*" >&2; usage >&2; exit 2; }

attention=0
temporary=''
cleanup() { [ -z "$temporary" ] || rm -f -- "$temporary"; }
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- what there is -----------------------------------------------------------------------------

systemd_runs() { [ -d "$root/run/systemd/system" ] && command -v systemctl >/dev/null 2>&1; }

# Half-written copies of runs that were killed.
sweep_up() { for old in "$1".new.*; do if [ -e "$old" ]; then rm -f -- "$old"; fi; done; }

# Copies $1 to $2 so that whoever opens $2 finds all of the old file or all of the new one.
replace() {
    sweep_up "$(dirname -- "$2")/.$(basename -- "$2")"
    temporary="$(dirname -- "$2")/.$(basename -- "$2").new.$$"
    cp -- "$1" "$temporary"
    chmod "$3" "$temporary"
    if [ -n "${4:-}" ]; then "$4" "$temporary"; fi
    mv -f -- "$temporary" "$2"
    temporary=''
}

# It speaks CNI: what the kubelet is going to call must start on this node.
speaks_cni() {
    printf '{"cniVersion":"1.0.0"}' | CNI_COMMAND=VERSION "$1" 2>/dev/null | grep -q '"supportedVersions"'
}
must_speak_cni() {
    speaks_cni "$1" || die "$binary does not answer CNI VERSION on this node: not installed, and what was there is still there"
}

must_be_the_daemon() {
    "$1" --version 2>/dev/null | grep -q "^$daemon_name " ||
        die "$daemon_binary does not answer --version as $daemon_name on this node: not installed, and what was there is still there"
}

# Whether JSON on stdin has an entry of ours, at any depth and however it is laid out.
has_entry() { tr -d ' \t\r\n' | grep -qF "\"type\":\"$name\""; }

# Those of the files that exist and have one.
naming_us() {
    for file in "$@"; do
        if [ -f "$file" ] && has_entry <"$file"; then printf '%s\n' "$file"; fi
    done
}

# Whether a list in the directory above $1 has plugins in $1: a directory of its network's name.
# (libcni 1.3 takes them in unless the list says loadOnlyInlinedPlugins.)
takes_in() {
    for list in "${1%/*}"/*.conflist; do
        [ -f "$list" ] || continue
        dense=$(tr -d ' \t\r\n' <"$list")
        if printf '%s' "$dense" | grep -qF "\"name\":\"$(basename -- "$1")\"" &&
            ! printf '%s' "$dense" | grep -qiE '"loadOnlyInlinedPlugins":"?true'; then
            return 0
        fi
    done
    return 1
}

# Files of plugins in the directories of $1.
drop_ins_naming_us() {
    for inner in "$1"/*/; do
        inner=${inner%/}
        if [ -d "$inner" ] && takes_in "$inner"; then naming_us "$inner"/*.conf; fi
    done
}

# Everything that may hold an entry: runtimes, distributions and multus have their own directories.
all_naming_us() {
    for dir in "$net_dir" "$root/etc/kubernetes/cni/net.d" "$root/etc/cni/multus/net.d" \
        "$root/run/multus/cni/net.d" "$root/var/lib/rancher/k3s/agent/etc/cni/net.d"; do
        naming_us "$dir"/*.conf "$dir"/*.conflist "$dir"/*.json
        drop_ins_naming_us "$dir"
    done
    # X.conf became X.conflist.
    if [ -n "$conflist" ]; then
        naming_us "$conflist" "${conflist%.*}.conflist"
        drop_ins_naming_us "$(dirname -- "$conflist")"
    fi
}

# Whether neither the network namespace $2 nor CRI-O's sandbox $1 is there any more: a cache keeps
# what no DEL took out. What cannot be seen is taken to be there.
is_over() {
    [ -n "$1" ] && [ -n "$2" ] || return 1
    [ -d "$root$(dirname -- "$2")" ] && [ ! -e "$root$2" ] || return 1
    seen=no
    for dir in "$root"/var/lib/containers/storage/*-containers; do
        [ -d "$dir" ] || continue
        seen=yes
        [ ! -e "$dir/$1" ] || return 1
    done
    [ "$seen" = yes ]
}

# The string after $1 in libcni's cached result $2.
cached() { sed -n "s|.*$1\"\([^\"]*\)\".*|\1|p" "$2" | head -n 1; }

# CRI-O and multus call DEL with the configuration that ADD had, from their cache. Prints such pods
# as are left, one a line. (containerd uses the file of now.)
still_called_for() {
    if [ -S "$root/run/crio/crio.sock" ] || [ -S "$root/var/run/crio/crio.sock" ]; then
        for file in "$root"/var/lib/cni/results/*; do
            [ -f "$file" ] || continue
            if cached '"config":' "$file" | base64 -d 2>/dev/null | has_entry; then
                id=$(cached '"containerId":' "$file")
                is_over "$id" "$(cached '"netns":' "$file")" && continue
                pod=$(cached '"K8S_POD_NAME",' "$file")
                if [ -n "$pod" ]; then
                    printf '%s/%s\n' "$(cached '"K8S_POD_NAMESPACE",' "$file")" "$pod"
                else
                    printf 'container %s\n' "$id"
                fi
            fi
        done
    fi
    for file in "$root"/var/lib/cni/multus/*; do
        if [ -f "$file" ] && has_entry <"$file"; then basename -- "$file"; fi
    done
}

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

# --- install -----------------------------------------------------------------------------------

# Puts $1 at $2 if it is not there yet, after the check $3. Sets $changed.
put_binary() {
    [ -f "$1" ] || die "$1: no such file"
    mkdir -p -- "$(dirname -- "$2")"
    changed=''
    if [ -x "$2" ] && cmp -s -- "$1" "$2"; then
        say "$4: $2 is this one already"
    else
        replace "$1" "$2" 755 "$3"
        say "$4: installed $2"
        changed=yes
    fi
}

# The unit $1, with what it starts in the directory $2. Sets $changed if it was not there so.
put_unit() {
    mkdir -p -- "$unit_dir"
    sweep_up "$unit_dir/.$1"
    temporary="$unit_dir/.$1.new.$$"
    sed "s|^ExecStart=.*/\($name[^/ ]*\)|ExecStart=$2/\1|" "$here/conf/systemd/$1" >"$temporary"
    if cmp -s -- "$temporary" "$unit_dir/$1"; then
        rm -f -- "$temporary"
    else
        chmod 644 "$temporary"
        mv -f -- "$temporary" "$unit_dir/$1"
        changed=yes
    fi
    temporary=''
}

install_binary() {
    if [ -z "$binary" ]; then
        say "binary: building it from $here"
        binary=$(build "$name")
        [ -n "$binary" ] || die "cargo built no binary: see above, or give one with --binary FILE"
    fi
    put_binary "$binary" "$installed" must_speak_cni binary
}

adopt() {
    if output=$("$installed" adopt --net-dir "$net_dir" ${conflist:+--conflist "$conflist"} \
        ${root:+--state-dir "$state_dir"} 2>&1); then
        say "adopt: recorded the pods that run already"
    else
        warn "adopt: failed, so pods from before today have no records and are not swept (run '$installed adopt' later): $output"
    fi
}

install_entry() {
    if [ -z "$conflist" ]; then
        conflist=$("$installed" conflist find "$net_dir") ||
            die "conflist: no configuration with an Open vSwitch plugin in $net_dir: name the file with --conflist FILE"
        say "conflist: found $conflist"
    fi
    output=$("$installed" conflist add "$conflist" 2>&1) || die "conflist: $output"
    say "conflist: $output"
}

install_timer() {
    if [ "$timer" = no ]; then
        say "timer: left out (--no-timer)"
        return
    fi
    if ! systemd_runs; then
        say "timer: systemd does not run here; run '$installed sweep --only-dead' every 30 seconds by other means"
        return
    fi
    changed=''
    for unit in $units; do put_unit "$unit" "$exec_dir"; done
    systemctl daemon-reload || die "timer: systemctl daemon-reload failed"
    systemctl enable --now "$name-sweep.timer" || die "timer: systemctl could not start $name-sweep.timer"
    if [ -n "$changed" ]; then
        say "timer: installed and started $name-sweep.timer"
    else
        say "timer: $name-sweep.timer is there already, started"
    fi
}

# The timer goes last: there is no moment without a sweeper, and two at once do no harm.
install_daemon() {
    if [ -z "$daemon_binary" ]; then
        say "daemon: building it from $here"
        daemon_binary=$(build "$daemon_name" "--features daemon")
        [ -n "$daemon_binary" ] || die "cargo built no daemon: see above, or give one with --daemon-binary FILE"
    fi
    put_binary "$daemon_binary" "$daemon_installed" must_be_the_daemon daemon
    if [ "$timer" = no ]; then
        say "daemon: no unit (--no-timer)"
        return
    fi
    if ! systemd_runs; then
        say "daemon: systemd does not run here; start $daemon_installed by other means, and again when it ends"
        return
    fi
    put_unit "$daemon_unit" "$daemon_exec_dir"
    systemctl daemon-reload || die "daemon: systemctl daemon-reload failed"
    systemctl enable "$daemon_unit" || die "daemon: systemctl could not enable $daemon_unit"
    # Also one that was killed between the new binary and here runs the old one: ask systemd.
    if [ -n "$changed" ] || ! runs_what_is_installed; then
        systemctl restart "$daemon_unit" || die "daemon: systemctl could not start $daemon_unit (journalctl -u $daemon_name says why); the timer was left as it was"
        say "daemon: installed and started $daemon_unit"
    else
        say "daemon: $daemon_unit is there already, started"
    fi
    remove_timer
}

# Whether the daemon's process is the file that is there now: a replaced one is "(deleted)".
runs_what_is_installed() {
    pid=$(systemctl show --property=MainPID --value "$daemon_unit") || return 1
    [ -n "$pid" ] && [ "$pid" != 0 ] && [ "/proc/$pid/exe" -ef "$daemon_installed" ]
}

do_install() {
    install_binary
    adopt
    install_entry
    if [ "$daemon" = yes ]; then
        install_daemon
    elif [ -e "$unit_dir/$daemon_unit" ]; then
        say "timer: left out, $daemon_unit does its work (--daemon brings the daemon up to date)"
    else
        install_timer
    fi
}

# --- uninstall ---------------------------------------------------------------------------------

remove_entries() {
    files=$(all_naming_us | sort -u)
    if [ -z "$files" ]; then
        say "conflist: no entry is left"
        return
    fi
    tool=$installed
    if [ ! -x "$tool" ]; then tool=$binary; fi
    [ -n "$tool" ] && [ -x "$tool" ] || die "$installed is gone, but these still name it; pods cannot end until it is back (--binary FILE) or the entry is out:
$files"
    while IFS= read -r file; do
        # Gone if it was a list that became a .conf again under its other name.
        [ -f "$file" ] || continue
        output=$("$tool" conflist remove "$file" 2>&1) || warn "conflist: $output"
        say "conflist: $output"
    done <<FILES
$files
FILES
    # Not on anybody's word: look.
    files=$(all_naming_us | sort -u)
    [ -z "$files" ] || die "these still name $name, so the binary stays (a file that multus generates: let it generate it again first):
$files"
}

remove_timer() {
    if [ "$timer" = no ]; then
        say "timer: left alone (--no-timer)"
        return
    fi
    found=''
    for unit in $units; do if [ -e "$unit_dir/$unit" ]; then found=yes; fi; done
    if [ -z "$found" ]; then
        say "timer: not there"
        return
    fi
    if systemd_runs; then
        systemctl disable --now "$name-sweep.timer" || warn "timer: systemctl could not stop $name-sweep.timer"
        # A sweep may be at work; it needs its state until it ends.
        systemctl stop "$name-sweep.service" || warn "timer: systemctl could not stop $name-sweep.service"
    fi
    for unit in $units; do rm -f -- "$unit_dir/$unit"; done
    if systemd_runs; then systemctl daemon-reload || warn "timer: systemctl daemon-reload failed"; fi
    say "timer: stopped and removed $name-sweep.timer"
}

remove_daemon() {
    if [ "$timer" = no ]; then
        say "daemon: left alone (--no-timer)"
        return
    fi
    sweep_up "$unit_dir/.$daemon_unit"
    sweep_up "$sbin_dir/.$daemon_name"
    if [ ! -e "$unit_dir/$daemon_unit" ] && [ ! -e "$daemon_installed" ]; then
        say "daemon: not there"
        return
    fi
    if [ -e "$unit_dir/$daemon_unit" ]; then
        if systemd_runs; then
            systemctl disable --now "$daemon_unit" || warn "daemon: systemctl could not stop $daemon_unit"
        fi
        rm -f -- "$unit_dir/$daemon_unit"
        if systemd_runs; then systemctl daemon-reload || warn "daemon: systemctl daemon-reload failed"; fi
    fi
    rm -f -- "$daemon_installed"
    say "daemon: stopped and removed $daemon_installed and its unit"
}

remove_state() {
    if [ -d "$state_dir" ] && [ ! -L "$state_dir" ]; then
        rm -rf -- "$state_dir"
        say "state: removed $state_dir (records, tombstones and the journal for undo)"
    else
        say "state: $state_dir is not there"
    fi
}

remove_binary() {
    sweep_up "$bin_dir/.$name"
    if [ -e "$installed" ]; then
        rm -f -- "$installed"
        say "binary: removed $installed"
    else
        say "binary: $installed is not there"
    fi
}

do_uninstall() {
    remove_entries
    remove_timer
    remove_daemon
    left=$(still_called_for)
    if [ -n "$left" ] && [ "$force" = no ]; then
        warn "binary: kept, and the state with it: $(printf '%s\n' "$left" | wc -l) pods were started with it, and CRI-O or multus calls it again when they end: $(printf '%s' "$left" | tr '\n' ' '). Run uninstall again when they are gone, or with --force"
        return
    fi
    remove_state
    remove_binary
}

# --- demo --------------------------------------------------------------------------------------

demo() {
    script="$here/conf/demo/demo.sh"
    [ -f "$script" ] || die "demo: $script is not there"
    exec bash "$script" "$@"
}

# --- the command line --------------------------------------------------------------------------

[ $# -gt 0 ] || wrong_usage "no command"
command=$1
shift
case $command in
install | uninstall) ;;
demo) demo "$@" ;;
help | -h | --help) usage; exit 0 ;;
*) wrong_usage "no such command: $command" ;;
esac

root='' conflist='' binary='' daemon_binary='' bin_dir='' sbin_dir='' net_dir=''
timer=yes daemon=no force=no
while [ $# -gt 0 ]; do
    case $1 in
    --conflist | --binary | --daemon-binary | --bin-dir | --sbin-dir | --net-dir | --prefix)
        [ $# -gt 1 ] && [ -n "$2" ] || wrong_usage "$1 needs a value"
        case $1 in
        --conflist) conflist=$2 ;;
        --binary) binary=$2 ;;
        --daemon-binary) daemon_binary=$2 daemon=yes ;;
        --bin-dir) bin_dir=$2 ;;
        --sbin-dir) sbin_dir=$2 ;;
        --net-dir) net_dir=$2 ;;
        --prefix) root=${2%/} ;;
        esac
        shift
        ;;
    --daemon) daemon=yes ;;
    --no-timer) timer=no ;;
    --force) force=yes ;;
    *) wrong_usage "no such option: $1" ;;
    esac
    shift
done

: "${bin_dir:=$root/opt/cni/bin}" "${net_dir:=$root/etc/cni/net.d}" "${sbin_dir:=$root/usr/local/sbin}"
installed=$bin_dir/$name
daemon_installed=$sbin_dir/$daemon_name
state_dir=$root/run/$name
unit_dir=$root/etc/systemd/system
# What the units call the directories once ROOT is /.
exec_dir=${bin_dir#"$root"}
daemon_exec_dir=${sbin_dir#"$root"}

if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
    die "$command changes /opt/cni/bin and /etc: run it as root (sudo $0 $command)"
fi

case $command in
install) do_install ;;
uninstall) do_uninstall ;;
esac
[ "$attention" = 0 ] || exit 3
