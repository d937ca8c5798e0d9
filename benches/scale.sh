#!/bin/sh
# Measures how a sweep grows from 1,000 flows to 1,000,000 and writes docs/scale.md and
# docs/scale.svg. As root; needs what tests/run.sh --setup installs and some five minutes.
set -eu
cd "$(dirname "$0")/.."
exec cargo bench -- scale
