#!/bin/sh
# Prints what a release is made of: a CycloneDX 1.5 software bill of materials, as JSON.
#
#   conf/image/sbom.sh [--plugin]
#
# The image's two binaries (plugin and daemon), or with --plugin the plugin's alone. `required` is
# what is linked into them; `excluded` is what takes part in the build only (procedural macros,
# build scripts). Versions and checksums are Cargo.lock's. No clock and no random number is in it:
# the same Cargo.lock gives the same bytes. Needs cargo and jq, and no network where the crates are
# there already.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
die() { printf 'sbom.sh: %s\n' "$*" >&2; exit 1; }
command -v jq >/dev/null || die "no jq: apt-get install --no-install-recommends jq"

features=daemon
case ${1:-} in
'') ;;
--plugin) features='' ;;
*) sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2 ;;
esac

cd "$repository"
host=$(rustc -vV | sed -n 's/^host: //p')
work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
# Licences and who depends on whom; but what dev-dependencies switch on is in it, too.
cargo metadata --format-version 1 --locked --filter-platform "$host" >"$work/metadata"
# Which crates take part: "name version", one a line, as a JSON array.
tree() {
    cargo tree --locked --target "$host" --no-default-features --features "$features" \
        --edges "$1" --prefix none --no-dedupe --format '{p}' |
        sed -n 's/^\([^ ]*\) v\([^ ]*\).*/\1 \2/p' | sort -u | jq -R . | jq -s .
}
tree normal,no-proc-macro >"$work/linked"
tree normal,build >"$work/all"
# name, version and checksum of each package in Cargo.lock.
awk -F '"' '/^name = /{n=$2} /^version = /{v=$2} /^checksum = /{printf "%s %s %s\n", n, v, $2}' \
    Cargo.lock | jq -R 'split(" ") | {key: "\(.[0]) \(.[1])", value: .[2]}' | jq -s from_entries \
    >"$work/checksums"

jq --sort-keys --slurpfile checksums "$work/checksums" --slurpfile linked "$work/linked" \
    --slurpfile all "$work/all" '
  def name: "\(.name) \(.version)";
  def ref: "pkg:cargo/\(.name)@\(.version)";
  def licences: if .license then {licenses: [{expression: (.license | gsub("/"; " OR "))}]} else {} end;
  (.packages | map({key: .id, value: .}) | from_entries) as $packages
  | (.resolve.nodes | map({key: .id, value: .}) | from_entries) as $nodes
  | ($linked[0] | map({key: ., value: true}) | from_entries) as $is_linked
  | ($all[0] | map({key: ., value: true}) | from_entries) as $is_there
  | $packages[.resolve.root] as $root
  | [.packages[] | select($is_there[name])] as $there
  | {
      bomFormat: "CycloneDX",
      specVersion: "1.5",
      version: 1,
      metadata: {component: ({
        type: "application", "bom-ref": ($root | ref), purl: ($root | ref),
        name: $root.name, version: $root.version
      } + ($root | licences))},
      components: ($there | map(select(.id != $root.id)
        | $checksums[0][name] as $sha
        | {
            type: "library", "bom-ref": ref, purl: ref, name, version,
            scope: (if $is_linked[name] then "required" else "excluded" end)
          } + licences
          + (if $sha then {hashes: [{alg: "SHA-256", content: $sha}]} else {} end)
      ) | sort_by(.name, .version)),
      dependencies: ($there | map({
        ref: ref,
        dependsOn: ([$nodes[.id].deps[] | select(any(.dep_kinds[]; .kind != "dev")) | .pkg
          | $packages[.] | select($is_there[name]) | ref] | unique)
      }) | sort_by(.ref))
    }' "$work/metadata"
