#!/bin/sh
# The model test with large numbers: sudo ./tests/nightly.sh
#
# Walks a reference model of a node at random against the real rules, and against the real
# program with a real switch; tests/model says what is promised after every step, and
# docs/promises.md what is not. Fails with the shortest walk that breaks a promise.
#
#   OFG_MODEL_STEPS         steps of the pure variant (2,000,000)
#   OFG_MODEL_SWITCH_STEPS  steps of the variant on a switch (20,000)
#   OFG_MODEL_NODES         nodes at once in that variant (3)
#   OFG_SEED                the seed of a run, which it prints (clock, a new one each time): brings
#                           the pure variant's walks back, and those on the switch as far as time
#                           plays no part
#
# Needs what tests/run.sh needs, and installs it (see there).
set -eu
cd "$(dirname "$0")/.."

export OFG_MODEL_STEPS="${OFG_MODEL_STEPS:-2000000}"
export OFG_MODEL_SWITCH_STEPS="${OFG_MODEL_SWITCH_STEPS:-20000}"
export OFG_MODEL_NODES="${OFG_MODEL_NODES:-3}"

export OFG_SEED="${OFG_SEED:-clock}"

exec env TEST_THREADS=1 RUST_TEST_NOCAPTURE=1 ./tests/run.sh --test verdict model::
