#!/usr/bin/env bash
# Checks the simulator and the batch output with the real `openai` Python package, the client that most programs use. All
# files are written below .mpi, which git ignores.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck disable=SC1091
[ -n "${MPICC-}" ] || . "$root/.mpi/env"
venv=$root/.mpi/openai-venv
target=${CARGO_TARGET_DIR:-$root/target}
die() { echo "openai-client: $*" >&2; exit 1; }
# shellcheck source=scripts/parts/simulator.sh
. "$root/scripts/parts/simulator.sh"

with_package "$venv" openai openai
(cd "$root" && cargo build --quiet --bins --package aurora-swarm --package vllm-sim)

trap 'kill "${simulator-}" 2> /dev/null || true; wait || true' EXIT
trap 'exit 1' HUP INT TERM
start_simulator "$root/.mpi/openai-client.log" --step-base-us 1000

# The simulator is local, so a proxy in the environment must not be used.
python() { env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY "$venv/bin/python" "$@"; }
python "$root/tests/sim/openai_client.py" "$url/v1"
kill "$simulator"

start_simulator "$root/.mpi/openai-batch.log" --instant --tools --refuse FORBIDDEN --reasoning 2 --lognormal 20:1.0
files=$root/.mpi/openai-batch
rm -rf "$files"
mkdir -p "$files"
python "$root/tests/sim/batch_client.py" write "$files/batch.jsonl"
"$target/debug/aurora-swarm" run "$files/batch.jsonl" --output "$files/answers.jsonl" --endpoint "$url" --quiet --progress none
python "$root/tests/sim/batch_client.py" check "$url" "$files/batch.jsonl" "$files/answers.jsonl" \
  tool_calls refusal reasoning logprobs prompt_logprobs token_ids stop_reason
