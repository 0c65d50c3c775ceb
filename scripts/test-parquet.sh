#!/usr/bin/env bash
# Checks Parquet input and output with pyarrow: the program reads tables that pyarrow wrote, and pyarrow reads tables that
# the program wrote. pyarrow is installed into a virtual environment below .mpi, which git ignores. Needs
# `cargo build --workspace`. The last line begins with "parquet:".
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1091
[ -n "${MPICC-}" ] || . "$root/.mpi/env"
venv=$root/.mpi/parquet-venv
target=${CARGO_TARGET_DIR:-$root/target}
die() { echo "parquet: $*" >&2; exit 1; }
# shellcheck source=scripts/parts/simulator.sh
. "$root/scripts/parts/simulator.sh"

for it in "$target/debug/aurora-swarm" "$target/debug/vllm-sim"; do
  [ -x "$it" ] || die "$it is missing: cargo build --workspace"
done
with_package "$venv" pyarrow.parquet pyarrow

folder=$(mktemp -d "${TMPDIR:-/tmp}/aurora-swarm-parquet.XXXXXX")
trap 'kill "${simulator-}" 2> /dev/null || true; wait || true; rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
start_simulator "$folder/simulator.log" --step-base-us 1000

mkdir "$folder/work"
"$venv/bin/python" "$root/tests/parquet/check.py" "$target/debug/aurora-swarm" "${AURORA_MPIEXEC:-mpiexec}" "$url" "$folder/work"
