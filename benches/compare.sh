#!/bin/sh
# Measures ovs-flow-gc side by side with what is used instead, and writes the table into
# README.md. As root; needs what tests/run.sh --setup installs and some five minutes.
set -eu
cd "$(dirname "$0")/.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
cargo bench -- compare >"$out"
# The last table is that of other figures: empty here.
awk '/^\| 500 of/ { on = 1 } /^\| figure / { on = 0 } on' "$out" >"$out.table"
awk -v table="$out.table" '
    /^<!-- compare -->/ { print; while ((getline line < table) > 0) print line; skip = 1; next }
    /^<!-- end compare -->/ { skip = 0 }
    !skip' README.md >"$out.readme"
cat "$out.readme" >README.md
rm -f "$out.table" "$out.readme"
cat "$out"
