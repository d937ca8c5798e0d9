#!/bin/sh
# Prints the licences of what is linked into the binaries: each text once, with the crates that
# come with it.
#
#   conf/release/licences.sh SBOM       as conf/image/sbom.sh prints it
#
# Needs cargo and jq, and no network where the crates are there already.
set -eu
repository=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
[ $# = 1 ] && [ -f "$1" ] || { sed -n '2,/^set -eu/{/^set -eu/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf -- "$work"' EXIT
host=$(rustc -vV | sed -n 's/^host: //p')
(cd "$repository" && cargo metadata --format-version 1 --locked --filter-platform "$host") |
    jq -r --slurpfile sbom "$1" '
        ($sbom[0].components | map(select(.scope == "required") | {key: .purl, value: true}) | from_entries) as $linked
        | .packages[] | select($linked["pkg:cargo/\(.name)@\(.version)"])
        | [.name + " " + .version, .license // "", (.manifest_path | rtrimstr("/Cargo.toml"))] | @tsv' |
    sort >"$work/crates"

cat <<'HEAD'
The binaries are linked statically. Beside what ovs-flow-gc's own licence (LICENSE) covers they have

- Rust's standard library (MIT OR Apache-2.0),
- the GNU C library (LGPL-2.1-or-later) of the system that built them; this project's sources and
  conf/image/release.sh link them anew with another one,
- the crates below.

HEAD
tab=$(printf '\t')
while IFS=$tab read -r crate licence _; do
    printf '%s: %s\n' "$crate" "$licence"
done <"$work/crates"

mkdir "$work/texts" "$work/names"
while IFS=$tab read -r crate _ directory; do
    for file in "$directory"/LICEN[CS]E* "$directory"/COPYING* "$directory"/NOTICE* "$directory"/COPYRIGHT*; do
        [ -f "$file" ] || continue
        sum=$(sha256sum <"$file" | cut -c 1-64)
        cp -- "$file" "$work/texts/$sum"
        printf '%s (%s)\n' "$crate" "$(basename "$file")" >>"$work/names/$sum"
    done
done <"$work/crates"
for text in "$work"/texts/*; do
    printf '\n%s\n\n' "$(printf '%79s' '' | tr ' ' =)"
    cat "$work/names/$(basename "$text")"
    echo
    cat "$text"
done
