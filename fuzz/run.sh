#!/usr/bin/env bash
# Runs the fuzzers: each target for some seconds, from fuzz/corpus and from what earlier runs found.
#
#   fuzz/run.sh [SECONDS [TARGET…]]        10 seconds each, all but the daemon's
#
# FUZZ_DAEMON=1: the daemon's, too (its libraries take minutes to build).
# Needs a nightly toolchain and a C++ compiler (libFuzzer is built from libfuzzer-sys), but not
# cargo-fuzz: these are the flags that it would pass. FUZZ_SANITIZER=address adds
# AddressSanitizer (this crate has no unsafe code: what it would find is others').
# What is found is in fuzz/artifacts/TARGET/, with the command that shows it again. New inputs are
# kept in fuzz/work/TARGET/, which is not committed.
#
# Exit status: 0 nothing found, 1 something found, 2 cannot run.
set -euo pipefail
cd "$(dirname "$0")"
export PATH="${HOME:-/root}/.cargo/bin:$PATH"

seconds=${1:-10}
[[ $seconds =~ ^[0-9]+$ ]] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p;}' "$0" >&2; exit 2; }
shift || :
mapfile -t all < <(for target in fuzz_targets/*.rs; do basename "$target" .rs; done)
if (($#)); then targets=("$@"); else targets=("${all[@]}"); fi

rustc +nightly --version >/dev/null 2>&1 || { echo "fuzz/run.sh: no nightly toolchain" >&2; exit 2; }
host=$(rustc +nightly -vV | sed -n 's/^host: //p')
flags="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=4 --cfg fuzzing"
[[ -z ${FUZZ_SANITIZER:-} ]] || flags+=" -Zsanitizer=$FUZZ_SANITIZER"
built=${FUZZ_TARGET_DIR:-$PWD/target}
plugin=()
if [[ -z ${FUZZ_DAEMON:-} ]]; then
    of_daemon=$(grep -B1 '^required-features' Cargo.toml | sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"/\1/p')
    for target in "${targets[@]}"; do
        grep -qx "$target" <<<"$of_daemon" || plugin+=("$target")
    done
    targets=("${plugin[@]}")
fi
bins=()
for target in "${targets[@]}"; do bins+=(--bin "$target"); done
# RUSTFLAGS takes the place of .cargo/config.toml's: sanitizers want a dynamic libc.
RUSTFLAGS=$(echo $flags) CARGO_TARGET_DIR=$built \
    cargo +nightly build --quiet --release --target "$host" ${FUZZ_DAEMON:+--features daemon} "${bins[@]}"

status=0
printf '%-18s %12s %8s %9s %9s  %s\n' target executions seconds coverage inputs found
for target in "${targets[@]}"; do
    mkdir -p "work/$target" "artifacts/$target"
    log=$built/$target.log
    found=nothing
    # A second an input is a hang: bodies take microseconds, or milliseconds with a connection.
    "$built/$host/release/$target" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=1024 \
        -max_len=16384 -print_final_stats=1 -artifact_prefix="artifacts/$target/" \
        "work/$target" "corpus/$target" >"$log" 2>&1 || { found="SOMETHING: $log"; status=1; }
    stat() { sed -n "s/^stat::$1: *//p" "$log" | tail -n 1; }
    ran=$(sed -n 's/^Done [0-9]* runs in \([0-9]*\) second.*/\1/p' "$log" | tail -n 1)
    last=$(grep -E '^#[0-9]+.* cov: ' "$log" | tail -n 1)
    cov=$(sed -n 's/.* cov: \([0-9]*\).*/\1/p' <<<"$last")
    corp=$(sed -n 's/.* corp: \([0-9]*\).*/\1/p' <<<"$last")
    printf '%-18s %12s %8s %9s %9s  %s\n' "$target" "$(stat number_of_executed_units)" \
        "${ran:-?}" "${cov:-?}" "${corp:-?}" "$found"
done
exit $status
