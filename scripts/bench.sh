#!/usr/bin/env bash
# Measures whole processes against simulated vLLM servers and holds the figures against the design's bars: sets up,
# builds a release of everything, runs a suite. A missed bar fails nothing (machines are noisy); wrong counts, a crash
# or a deadline do. A full suite takes about half an hour and wants the machine for itself; `ranks` wants 20 GB of disk.
#
#   scripts/bench.sh [engine] [--quick] [--only NAME] [--repeats N] [--out FILE.json]     one process
#   scripts/bench.sh ranks [...]       four ranks: shares, gather, start, memory; and rank 0's book for 120,000
#   scripts/bench.sh reduce [...]      four ranks: one text of many answers, and what the end of each level costs
#   scripts/bench.sh SUITE --list      the scenarios, and why they are as large as they are
#
# Without --out all figures go to target/bench/SUITE.json. The scenarios are in tests/bench/src.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1-}" in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
scripts/setup.sh
# shellcheck disable=SC1091
. .mpi/env
export TMPDIR=${TMPDIR:-/tmp} # socket paths of MPI are too long elsewhere

cargo build --release --quiet --package aurora-swarm --package vllm-sim --package bench \
  || { printf '\nbench.sh: the build failed (above)\n' >&2; exit 1; }
label=$(git describe --always --dirty 2> /dev/null || true)
exec target/release/bench --label "$label" "$@"
