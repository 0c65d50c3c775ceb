#!/usr/bin/env bash
# Checks the simulator with the real `openai` Python package, the client that most programs use. All files are written
# below .mpi, which git ignores.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.mpi/openai-venv
target=${CARGO_TARGET_DIR:-$root/target}
die() { echo "openai-client: $*" >&2; exit 1; }
# shellcheck source=scripts/parts/simulator.sh
. "$root/scripts/parts/simulator.sh"

with_package "$venv" openai openai
(cd "$root" && cargo build --quiet --package vllm-sim)

trap 'kill "${simulator-}" 2> /dev/null || true; wait || true' EXIT
trap 'exit 1' HUP INT TERM
start_simulator "$root/.mpi/openai-client.log" --step-base-us 1000

# The simulator is local, so a proxy in the environment must not be used.
env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY "$venv/bin/python" "$root/tests/sim/openai_client.py" "$url/v1"
