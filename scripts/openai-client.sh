#!/bin/sh
# Checks the simulator with the real `openai` Python package, which is the client that most
# programs use: what it cannot read, they cannot either.  The package goes into a virtual
# environment of its own; everything made here lies under .mpi, which git ignores.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
venv="$root/.mpi/openai-venv"
target="${CARGO_TARGET_DIR:-$root/target}"
log="$root/.mpi/openai-client.log"
mkdir -p "$root/.mpi"

if ! "$venv/bin/python" -c 'import openai' 2>/dev/null; then
    python3 -m venv "$venv" || {
        echo "openai-client: python3 cannot make a virtual environment; install python3-venv." >&2
        exit 1
    }
    "$venv/bin/pip" install --quiet --disable-pip-version-check openai || {
        echo "openai-client: pip could not install openai; is the package index reachable?" >&2
        exit 1
    }
fi

(cd "$root" && cargo build --quiet --package vllm-sim)

"$target/debug/vllm-sim" --port 0 --step-base-us 1000 >"$log" &
simulator=$!
trap 'kill "$simulator" 2>/dev/null || true; wait "$simulator" 2>/dev/null || true' EXIT
trap 'exit 1' HUP INT TERM

url=
for _ in $(seq 100); do
    url=$(sed -n 's/^ready //p' "$log")
    [ -n "$url" ] && break
    kill -0 "$simulator" 2>/dev/null || break
    sleep 0.1
done
if [ -z "$url" ]; then
    echo "openai-client: the simulator did not start; see $log." >&2
    exit 1
fi

# An endpoint is reached directly, whatever proxy the environment names.
env -u http_proxy -u HTTP_PROXY -u all_proxy -u ALL_PROXY \
    "$venv/bin/python" "$root/tests/sim/openai_client.py" "$url/v1"
