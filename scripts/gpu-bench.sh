#!/usr/bin/env bash
# Measures aurora-swarm against a real vLLM on one GPU: the engine alone (without HTTP, the bound for any client), a careful
# Python client with a fixed window, and aurora-swarm, over the same rows and with the same engine arguments. The model has
# the shape of a 7B model and random weights, because its answers do not matter. A run takes 10 to 20 minutes.
#
#   scripts/gpu-bench.sh [--out FILE.json] [OPTION…]          installs vLLM into ~/.cache/aurora-swarm/vllm-gpu (12 GB)
#   scripts/gpu-bench.sh --python PYTHON [OPTION…]            uses an interpreter that has vllm, transformers and aiohttp
#   scripts/gpu-bench.sh --restart [--python PYTHON]          two servers on the GPU that the run starts, one is killed
#
# OPTIONs go to scripts/gpu-bench/measure.py; the frequent ones are --clients 'uniform: swarm' 'heavy: aiohttp 1024' …,
# --slots N, --together (loads the engine beside the server, for 120 GiB and more) and --memory FRACTION.
# Needs one CUDA GPU with 70 GiB and the needs of scripts/setup.sh.
set -euo pipefail
VLLM=0.25.1
cd "$(dirname "$0")/.."
parts=$PWD/scripts/gpu-bench
python= out=$PWD/target/bench/gpu.json restart=no rest=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --python) python=${2:?--python needs an interpreter}; shift 2 ;;
    --out) out=${2:?--out needs a file}; shift 2 ;;
    --restart) restart=yes; shift ;;
    *) rest+=("$1"); shift ;;
  esac
done
nvidia-smi -L > /dev/null 2>&1 || { echo "gpu-bench: nvidia-smi finds no GPU on this machine." >&2; exit 1; }

scripts/setup.sh
# shellcheck disable=SC1091
. .mpi/env
cargo build --release --quiet --package aurora-swarm
if [ -z "$python" ]; then
  venv=${XDG_CACHE_HOME:-$HOME/.cache}/aurora-swarm/vllm-gpu
  python=$venv/bin/python
  if [ ! -e "$venv/installed-$VLLM" ]; then
    python3 -m venv "$venv"
    "$python" -m pip install --quiet "vllm==$VLLM" aiohttp
    touch "$venv/installed-$VLLM"
  fi
fi
work=$(mktemp -d /tmp/gpu-bench.XXXXXX)
mkdir -p "$(dirname "$out")"
echo "gpu-bench: inputs, answers and logs are in $work" >&2
"$python" "$parts/inputs.py" "$work"
swarm=$PWD/target/release/aurora-swarm mpiexec=${AURORA_MPIEXEC:-mpiexec}
if [ $restart = yes ]; then
  exec "$python" "$parts/server_restart.py" --work "$work" --swarm "$swarm" --mpiexec "$mpiexec" --python "$python" "${rest[@]}"
fi
exec "$python" "$parts/measure.py" --work "$work" --out "$out" --swarm "$swarm" --mpiexec "$mpiexec" "${rest[@]}"
