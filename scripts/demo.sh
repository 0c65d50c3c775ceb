#!/usr/bin/env bash
# A complete run on a new machine without a GPU: sets up, builds, starts four simulated vLLM servers, and has four MPI
# ranks ask them to summarise the descriptions of the packages that are installed on this machine.
#
#   scripts/demo.sh [FOLDER]    writes the answers to FOLDER (default: a new temporary folder)
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
# shellcheck disable=SC1091
. .mpi/env
export TMPDIR=${TMPDIR:-/tmp}

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf '\ndemo.sh: %s\n' "$*" >&2; exit 1; }

say "Building (a minute or two the first time; without Parquet, which 'cargo build --release' includes)"
cargo build --release --quiet --package aurora-swarm --package vllm-sim --no-default-features --features aurora-swarm/mpi \
  || fail "the build failed (see above)"
swarm=$PWD/target/release/aurora-swarm
folder=${1:-$(mktemp -d "$TMPDIR/aurora-swarm-demo.XXXXXX")}
mkdir -p "$folder"

say "The prompts: descriptions of this machine's packages"
input=$folder/packages.csv
if command -v dpkg-query > /dev/null; then
  printf 'id\ttext\n' > "${input%.csv}.tsv"
  # shellcheck disable=SC2016
  dpkg-query -W -f '${Package}\t${binary:Summary}\n' | tr -d '"' | sort -u >> "${input%.csv}.tsv"
  input=${input%.csv}.tsv
else
  python3 - "$input" << 'PYTHON' || fail "no package descriptions: dpkg-query is missing and python3 failed"
import csv, sys
from importlib.metadata import distributions
rows = sorted({d.metadata["Name"]: d.metadata["Summary"] or "no summary" for d in distributions()}.items())
with open(sys.argv[1], "w", newline="") as f:
    w = csv.writer(f); w.writerow(["id", "text"]); w.writerows(rows)
PYTHON
fi
echo "$(($(wc -l < "$input") - 1)) rows in $input"

say "Four simulated vLLM servers"
servers=$folder/servers.txt
target/release/vllm-sim --port 0 --endpoints 4 --max-num-seqs 64 --lognormal 24:0.6 --exit-with-parent > "$servers" &
sim=$!
trap 'kill "$sim" 2> /dev/null || true' EXIT
for _ in $(seq 100); do [ "$(grep -c '^ready' "$servers" || true)" = 4 ] && break; sleep 0.1; done
[ "$(grep -c '^ready' "$servers")" = 4 ] || fail "the simulated servers did not start"
endpoints=()
while read -r _ url; do endpoints+=(--endpoint "$url"); done < "$servers"
cat "$servers"

# Open MPI refuses more ranks than cores by default.
over=()
if mpiexec --version 2>&1 | grep -qiE 'open ?mpi|openrte|prrte'; then over=(--oversubscribe); fi

say "mpiexec -n 4 aurora-swarm check"
mpiexec "${over[@]}" -n 4 "$swarm" check "${endpoints[@]}"

say "mpiexec -n 4 aurora-swarm run"
mpiexec "${over[@]}" -n 4 "$swarm" run "$input" --output "$folder/answers.jsonl" "${endpoints[@]}" \
  --template 'Summarise in one sentence what this is for: {{text}}' --max-tokens 96 --overwrite

say "Some answers (the simulator makes up text; equal prompts get equal answers)"
head -n 3 "$folder/answers.jsonl" | cut -c 1-400

say "The counts of the run, and of its manifest"
"$swarm" status "$folder/answers.jsonl" --verify
python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["counts"])' "$folder/answers.jsonl.run/manifest.json" 2> /dev/null \
  || grep -A 5 '"counts"' "$folder/answers.jsonl.run/manifest.json"

say "The same command again: nothing is left to do"
mpiexec "${over[@]}" -n 3 "$swarm" run "$input" --output "$folder/answers.jsonl" "${endpoints[@]}" \
  --template 'Summarise in one sentence what this is for: {{text}}' --max-tokens 96
echo "all files are in $folder"
