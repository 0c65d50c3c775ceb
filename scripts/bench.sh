#!/usr/bin/env bash
# Measures the program against simulated vLLM servers and compares the figures with the targets of the design: sets up,
# builds a release and runs a suite. A missed target is not a failure, because machines are noisy; wrong counts, a crash
# or a timeout are. A full suite takes about half an hour on an idle machine; `ranks` needs 20 GB of disk.
#
#   scripts/bench.sh [engine] [--quick] [--only NAME] [--repeats N] [--out FILE.json]     one process
#   scripts/bench.sh ranks [...]       four ranks: shares, gather, start, memory; and rank 0's ledger of 120,000 ranks
#   scripts/bench.sh reduce [...]      four ranks: a reduce of many answers, and the cost of each level's end
#   scripts/bench.sh SUITE --list      the scenarios and the reasons for their sizes
#
# Without --out the figures are written to target/bench/SUITE.json. The scenarios are in tests/bench/src.
set -euo pipefail
cd "$(dirname "$0")/.."
case "${1-}" in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
scripts/setup.sh
# shellcheck disable=SC1091
. .mpi/env
export TMPDIR=${TMPDIR:-/tmp} # other paths are too long for MPI's sockets

cargo build --release --quiet --package aurora-swarm --package vllm-sim --package bench \
  || { printf '\nbench.sh: the build failed (see above)\n' >&2; exit 1; }
label=$(git describe --always --dirty 2> /dev/null || true)
exec target/release/bench --label "$label" "$@"
