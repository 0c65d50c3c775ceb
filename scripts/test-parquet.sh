#!/usr/bin/env bash
# Holds Parquet in and out against pyarrow, which most Parquet files come from and go to: runs of the program on tables that
# pyarrow wrote, and pyarrow on tables that the program wrote. pyarrow goes into a virtual environment of its own under .mpi,
# which git ignores. Needs `cargo build --workspace`. Its last line begins with "parquet:".
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1091
[ -n "${MPICC-}" ] || . "$root/.mpi/env"
target=${CARGO_TARGET_DIR:-$root/target}
venv=$root/.mpi/parquet-venv
for it in "$target/debug/aurora-swarm" "$target/debug/vllm-sim"; do
  [ -x "$it" ] || { echo "parquet: $it is missing: cargo build --workspace" >&2; exit 1; }
done

if ! "$venv/bin/python" -c 'import pyarrow.parquet' 2> /dev/null; then
  python3 -m venv "$venv" || { echo "parquet: python3 cannot make a virtual environment; install python3-venv" >&2; exit 1; }
  "$venv/bin/pip" install --quiet --disable-pip-version-check pyarrow \
    || { echo "parquet: pip could not install pyarrow; is the package index reachable?" >&2; exit 1; }
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/aurora-swarm-parquet.XXXXXX")
simulator=
tidy() {
  [ -z "$simulator" ] || kill "$simulator" 2> /dev/null || true
  wait || true
  rm -rf "$folder"
}
trap tidy EXIT
trap 'exit 1' HUP INT TERM

"$target/debug/vllm-sim" --port 0 --step-base-us 1000 > "$folder/simulator.log" 2>&1 &
simulator=$!
url=
for _ in $(seq 100); do
  url=$(sed -n 's/^ready //p' "$folder/simulator.log")
  [ -z "$url" ] || break
  kill -0 "$simulator" 2> /dev/null || break
  sleep 0.1
done
[ -n "$url" ] || { echo "parquet: the simulator did not start:" >&2; cat "$folder/simulator.log" >&2; exit 1; }

mkdir "$folder/work"
"$venv/bin/python" "$root/tests/parquet/check.py" "$target/debug/aurora-swarm" "${MPIEXEC:-mpiexec}" "$url" "$folder/work"
