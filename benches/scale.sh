#!/bin/sh
# Measures how a sweep grows with what is there and with what is stale, and writes docs/scale.md and
# docs/scale.svg. As root; needs what tests/run.sh --setup installs and some ten minutes.
set -eu
cd "$(dirname "$0")/.."
exec cargo bench -- scale
