#!/usr/bin/env bash
# The demonstration: a switch of its own, real pods, a death without DEL, the traffic that it
# breaks, the sweep that heals it. Everything is in one network namespace and one directory,
# both gone at the end. Needs root; installs the Debian packages that it needs.
set -euo pipefail

here=$(cd "$(dirname "$0")/../.." && pwd)
[[ $EUID == 0 ]] || { echo "demo: needs root: sudo ./install.sh demo" >&2; exit 1; }
"$here/tests/run.sh" --setup

node=ofg-demo-$$
dir=$(mktemp -d /tmp/ofg-demo.XXXXXX)
export OVS_RUNDIR=$dir OVS_LOGDIR=$dir
db=unix:$dir/db.sock
daemons=()
pods=()

cleanup() {
    # What the shell started may be the parent of what runs.
    for file in "$dir"/*.pid; do [[ -f $file ]] && kill "$(cat "$file")" 2>/dev/null; done
    for pid in "${daemons[@]}"; do kill "$pid" 2>/dev/null; wait "$pid" 2>/dev/null; done
    for pod in "${pods[@]}"; do ip netns del "$pod" 2>/dev/null; done
    ip netns del "$node" 2>/dev/null
    rm -rf -- "$dir"
} || true
trap 'set +e; cleanup' EXIT
trap 'exit 130' INT TERM HUP

title() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
in_node() { ip netns exec "$node" "$@"; }

# --- the programs ------------------------------------------------------------------------------

title "Building ovs-flow-gc and the OVS CNI that stands in for ovs-cni (no distribution packages one)"
build() {
    local command='PATH="$HOME/.cargo/bin:$PATH"; cd "$1" && shift && cargo build --quiet "$@" --message-format=json-render-diagnostics'
    if [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
        sudo -H -u "$SUDO_USER" sh -c "$command" sh "$here" "$@"
    else
        sh -c "$command" sh "$here" "$@"
    fi | sed -n 's/.*"executable":"\([^"]*\)".*/\1/p'
}
mkdir "$dir/bin" "$dir/state" "$dir/ipam"
ln -s "$(build --release --bin ovs-flow-gc)" "$dir/bin/ovs-flow-gc"
ln -s "$(build --features test-tools --bin ovs-test-cni)" "$dir/bin/ovs-test-cni"
ln -s /usr/lib/cni/host-local "$dir/bin/host-local"
chmod 700 "$dir/state"
gc() { in_node "$dir/bin/ovs-flow-gc" --state-dir "$dir/state" "$@"; }

# --- the switch --------------------------------------------------------------------------------

title "A node: Open vSwitch $(ovs-vswitchd --version | sed -n '1s/.* //p') with one bridge"
ip netns add "$node"
in_node ip link set lo up
ovsdb-tool create "$dir/conf.db" /usr/share/openvswitch/vswitch.ovsschema
in_node ovsdb-server "$dir/conf.db" --remote="punix:$dir/db.sock" --pidfile --no-chdir \
    --log-file -vconsole:off 2>>"$dir/daemons.log" &
daemons+=($!)
for _ in $(seq 100); do ovs-vsctl --db="$db" --timeout=1 --no-wait init 2>/dev/null && break; sleep 0.05; done
in_node ovs-vswitchd "$db" --pidfile --no-chdir --log-file -vconsole:off 2>>"$dir/daemons.log" &
daemons+=($!)
ovs-vsctl --db="$db" --timeout=10 add-br br0 \
    -- set bridge br0 datapath_type=netdev fail_mode=secure
flows() { in_node ovs-ofctl -OOpenFlow14 add-flows br0 -; }
flows <<'FLOWS'
table=0,priority=0,actions=drop
table=10,priority=0,actions=resubmit(,20)
table=20,priority=0,actions=drop
FLOWS
echo "br0: table 0 gives every pod its identity (reg0), table 10 is policy, table 20 delivers"

# --- a runtime's part: the chain ---------------------------------------------------------------

ovs_conf='{"cniVersion":"1.0.0","name":"podnet","type":"ovs-test-cni","bridge":"br0",
  "ipam":{"type":"host-local","dataDir":"'$dir/ipam'","ranges":[[{"subnet":"10.244.1.0/24"}]]}}'
gc_conf='{"cniVersion":"1.0.0","name":"podnet","type":"ovs-flow-gc","stateDir":"'$dir/state'","logLevel":"warn"}'

call() { # VERB POD PLUGIN CONF
    CNI_COMMAND=$1 CNI_CONTAINERID=$2 CNI_NETNS=/var/run/netns/$2 CNI_IFNAME=eth0 \
        CNI_PATH=$dir/bin CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;K8S_POD_NAME=${name[${2##*-}]}" \
        in_node "$dir/bin/$3" <<<"$4"
}
chained() { local conf=${gc_conf%\}}; printf '%s,"prevResult":%s}' "$conf" "$1"; }

# Replicas of one Deployment: that their identities differ shows that these are pods' own.
declare -A name=([client]=shop-7d4f8b9c6f-c2l6k [web]=shop-7d4f8b9c6f-w4b4b [api]=shop-7d4f8b9c6f-6p4x5)
declare -A ip port id
add() { # POD REG0
    local pod=$node-$1 result
    ip netns add "$pod"
    pods+=("$pod")
    result=$(call ADD "$pod" ovs-test-cni "$ovs_conf")
    call ADD "$pod" ovs-flow-gc "$(chained "$result")" >/dev/null
    ip[$1]=$(grep -o '10\.244\.1\.[0-9]*/' <<<"$result" | head -n 1 | tr -d /)
    local veth
    veth=$(ovs-vsctl --db="$db" --bare --columns=name find port "external_ids:contNetns=/var/run/netns/$pod")
    port[$1]=$(ovs-vsctl --db="$db" get interface "$veth" ofport)
    id[$1]=$2
    # What the node's controller does when it sees the pod.
    flows <<FLOWS
table=0,priority=100,in_port=${port[$1]},actions=load:$2->NXM_NX_REG0[],resubmit(,10)
table=20,priority=100,ip,nw_dst=${ip[$1]},actions=output:${port[$1]}
table=20,priority=100,arp,arp_tpa=${ip[$1]},actions=output:${port[$1]}
FLOWS
    echo "pod $1 (${name[$1]}): ${ip[$1]}, port ${port[$1]}, reg0 $2"
}
ping_from() { # POD ADDRESS
    # A neighbour entry with the old pod's MAC would hide what the switch does.
    ip -n "$node-$1" neigh flush all
    if ip netns exec "$node-$1" ping -c 1 -W 1 "$2" >/dev/null 2>&1; then
        echo "ping from $1 to $2: answered"
    else
        echo "ping from $1 to $2: NO ANSWER"
        return 1
    fi
}

title "Two pods, attached through the chain (OVS CNI, then ovs-flow-gc)"
add client 4101
add web 4102
# The controller pins a busy service's address with entries of a higher priority.
flows <<FLOWS
table=10,priority=200,tcp,reg0=4102,tp_dst=25,actions=drop
table=20,priority=200,icmp,nw_dst=${ip[web]},actions=output:${port[web]}
FLOWS
echo
show "ovs-flow-gc list"
gc list
ping_from client "${ip[web]}"
old=${ip[web]}

title "web is evicted, and DEL never fires: its namespace, its veth and its lease go, its entries stay"
call DEL "$node-web" ovs-test-cni "$ovs_conf"
ip netns del "$node-web"
show "ovs-ofctl dump-flows br0 | grep $old"
in_node ovs-ofctl -OOpenFlow14 --no-stats dump-flows br0 | grep -F "$old"

title "What happens without ovs-flow-gc: paused, it deletes nothing, and the next pod gets web's address"
show "ovs-flow-gc pause"
gc pause
# host-local hands out the next free address after the last one: back one step.
printf '10.244.1.%d' "$((${old##*.} - 1))" >"$dir/ipam/podnet/last_reserved_ip.0"
add api 4103
[[ ${ip[api]} == "$old" ]] || { echo "demo: the address was not re-used" >&2; exit 1; }
if ping_from client "${ip[api]}"; then echo "demo: expected a blackhole" >&2; exit 1; fi

title "Why"
show "ovs-flow-gc explain ${name[web]}"
gc explain "${name[web]}"
show "ovs-flow-gc sweep --dry-run"
gc sweep --dry-run || [[ $? == 3 ]]

title "The sweep"
show "ovs-flow-gc resume && ovs-flow-gc sweep"
gc resume
gc sweep
ping_from client "${ip[api]}"

title "What is left is the living's"
show "ovs-ofctl dump-flows br0"
in_node ovs-ofctl -OOpenFlow14 --no-stats dump-flows br0
left=$(in_node ovs-ofctl -OOpenFlow14 --no-stats dump-flows br0)
if grep -Eq "reg0=0x1006|in_port=${port[web]}[, ]|output:${port[web]}\$" <<<"$left" && [[ ${port[web]} != "${port[api]}" ]]; then
    echo "demo: something of web's is left" >&2
    exit 1
fi

title "And when DEL does fire, nothing is left in the first place"
call DEL "$node-api" ovs-flow-gc "$gc_conf"
call DEL "$node-api" ovs-test-cni "$ovs_conf"
show "ovs-ofctl dump-flows br0 | grep -c $old"
in_node ovs-ofctl -OOpenFlow14 --no-stats dump-flows br0 | grep -cF "$old" || true
# --- deliveries ----------------------------------------------------------------------------------

title "A range of eight addresses, and pods whose DEL never fires: their leases stay, and it runs out"
small=${ovs_conf//podnet/small}
small=${small/10.244.1.0\/24/10.244.2.0/29}
chain='{"cniVersion":"1.0.0","name":"small","plugins":['$small','${gc_conf//podnet/small}']}'
mkdir "$dir/results"
live_and_die() { # NUMBER: ADD and what libcni caches of it, then its namespace is gone
    local pod=$node-s$1 result
    name[s$1]=small-$1
    ip netns add "$pod"
    pods+=("$pod")
    if ! result=$(call ADD "$pod" ovs-test-cni "$small"); then
        echo "pod small-$1 cannot start: $(grep -o 'no IP addresses available[^"\\]*' <<<"$result")"
        return 1
    fi
    local conf=${gc_conf//podnet/small}
    result=$(call ADD "$pod" ovs-flow-gc "${conf%\}},\"prevResult\":$result}")
    cat >"$dir/results/small-$pod-eth0" <<CACHED
{"kind":"cniCacheV1","containerId":"$pod","ifName":"eth0","networkName":"small",
 "config":"$(base64 -w0 <<<"$chain")","result":$result,
 "cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","demo"],["K8S_POD_NAME","small-$1"]]}
CACHED
    ip netns del "$pod"
    echo "pod small-$1: started, and died"
}
deliver() { gc deliver --cache-dir "$dir/results" --cni-path "$dir/bin" --net-dir "$dir/none"; }
for n in 1 2 3 4 5 6; do live_and_die "$n" || break; done
[[ $n == 6 ]] || { echo "demo: expected five pods to start" >&2; exit 1; }
show "ovs-flow-gc deliver"
deliver
title "With deliveries it does not run out"
for n in 7 8 9 10 11; do
    live_and_die "$n"
    deliver >/dev/null
done
show "ovs-vsctl list-ports br0 | wc -l; ls ipam/small | grep -c '^10'"
ovs-vsctl --db="$db" list-ports br0 | wc -l
left=$(find "$dir/ipam/small" -name '10.*' | wc -l)
echo "$left"
[[ $left == 0 ]] || { echo "demo: leases are left" >&2; exit 1; }

title "Done: the traffic was healed, and nobody alive lost an entry"
