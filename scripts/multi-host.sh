#!/usr/bin/env bash
# Runs the program on four hosts on this machine (network namespaces, TCP between them), each with two ranks and two
# simulated servers on its own 127.0.0.1: the main job, then servers that die, an input or an output that only one host
# has, a killed rank, and an unplugged network cable.
#
#   scripts/multi-host.sh [FOLDER]   FOLDER has aurora-swarm and vllm-sim [default: $CARGO_TARGET_DIR or target, /debug]
#
# Needs iproute2, and root or user namespaces; without them it is skipped with a message. KEEP=1 keeps the scratch folder.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=scripts/multi-host/hosts.sh
. "$root/scripts/multi-host/hosts.sh"

# --- outside the namespaces ---------------------------------------------------------------------------------------
if [ "${1-}" != --isolated ]; then
  folder=${1:-${CARGO_TARGET_DIR:-$root/target}/debug}
  for it in "$folder/aurora-swarm" "$folder/vllm-sim"; do
    [ -x "$it" ] || { echo "multi-host: $it is missing: cargo build --workspace" >&2; exit 1; }
  done
  if [ -z "${AURORA_MPIEXEC-}" ]; then
    [ -f "$root/.mpi/env" ] || { echo "multi-host: no MPI: run scripts/setup.sh" >&2; exit 1; }
    # shellcheck disable=SC1091
    . "$root/.mpi/env"
  fi
  skip() { echo "multi-host: skipped: $*"; exit 0; }
  hindered=$(hindrance)
  [ -z "$hindered" ] || skip "$hindered"

  scratch=$(mktemp -d /tmp/multi-host.XXXXXX)
  inside=
  tidy() { # the kernel ends all processes inside with the first one
    [ -z "$inside" ] || { kill -KILL "$inside" && wait "$inside"; } 2> /dev/null || true
    if [ -n "${KEEP-}" ]; then echo "multi-host: kept $scratch"; return; fi
    for _ in $(seq 50); do rm -rf "$scratch" 2> /dev/null && break; sleep 0.1; done
  }
  trap tidy EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  cp "$folder/aurora-swarm" "$folder/vllm-sim" "$scratch/" # so that a build meanwhile does not replace them
  # In the background, so that this script handles signals at once.
  setpriv --pdeathsig KILL timeout --signal=KILL 280 "${isolated[@]}" "$0" --isolated "$scratch" &
  inside=$! code=0
  wait "$inside" || code=$?
  inside=
  [ $code != 137 ] || echo "FAILED multi-host: it did not end in time" >&2
  exit $code
fi

# --- inside the namespaces ----------------------------------------------------------------------------------------------------------
scratch=$2 began=$SECONDS
HOSTS=(node0 node1 node2 node3) PROMPTS=600 MAX_TOKENS=24 input=$scratch/prompts.txt
cd "$scratch"
say() { printf 'multi-host: %s\n' "$*"; }
fail() {
  for log in "$scratch"/*.log; do printf -- '--- last lines of %s\n' "$log" && tail -n 15 "$log"; done >&2
  printf 'FAILED multi-host: %s\n' "$*" >&2
  exit 1
}
for name in $(compgen -e AURORA_SWARM_ || true); do unset "$name"; done
export TMPDIR=/dev/shm # private to a host, as /tmp is on real hosts; MPI's daemons name files there by process ids
hosts_up "$scratch" "${HOSTS[@]}"
mpiexec_over "${HOSTS[@]}"

# serve HOST…: starts two servers on each host, at 127.0.0.1:8000 and 8001, with about 16 prompts per second each.
serve() {
  local host _
  for host; do
    on "$host" "$scratch/vllm-sim" --port 8000 --endpoints 2 --max-num-seqs 8 --step-base-us 20000 --tell-seen > "sim-$host" 2>&1 &
  done
  for host; do
    for _ in $(seq 100); do [ "$(grep -cs '^ready' "sim-$host")" = 2 ] && continue 2; sleep 0.1; done
    fail "the servers of $host did not start: $(cat "sim-$host")"
  done
}
begin() { # RUN [OPTION…]: starts its mpiexec in the background
  local command=(run "$input" --output "$(realpath -m "$1.jsonl")" --api completions --temperature 0 --progress none
    --max-tokens $MAX_TOKENS --base-port 8000 --endpoints-per-node 2 --ready-timeout 5s --expect-ranks 8 "${@:2}")
  (timeout --kill-after=5 120 "${mpiexec[@]}" -n 8 "$scratch/aurora-swarm" "${command[@]}" || exit $?) >> "${log:-$1}.log" 2>&1 < /dev/null &
  job=$! from=$SECONDS
}
await() { # waits for the job and sets its exit $code and the seconds it $took
  code=0
  wait "$job" || code=$?
  took=$((SECONDS - from)) job=
}
runs() { kill -0 "$job" 2> /dev/null; }
answered() { cat "$1".jsonl.run/shards/* 2> /dev/null | grep -c '"index"' || true; }
amidst() { # RUN: waits until a fifth of the prompts is answered
  for _ in $(seq 300); do
    runs || fail "$1 ended before a fifth was answered"
    [ "$(answered "$1")" -lt $((PROMPTS / 5)) ] || return 0
    sleep 0.1
  done
  fail "$1 makes no progress"
}
count() { sed -n "s/.*\"$2\": *\([0-9]*\).*/\1/p" "$1.jsonl.run/manifest.json" | head -n 1; }
whole() { # RUN: all answers are correct and in order, from all hosts and servers, and `status` counts the same
  local said
  said=$(timeout 20 python3 "$judge" compare expected.json "$1.jsonl" 4 8 2>&1) || fail "$1: $said"
  timeout 20 "$scratch/aurora-swarm" status "$1.jsonl" --verify --exit-code > status.log 2>&1 || fail "$1: status reports other counts"
}
ours='(aurora-swarm|mpiexec.*|hydra.*|prterun|prted|orted)'
nothing_left() { # RUN: no process is left on the hosts or beside mpiexec
  local host left=() _
  for _ in $(seq 50); do
    mapfile -t left < <(for host in "${HOSTS[@]}" login; do processes "$host" "$ours"; done)
    [ ${#left[@]} -gt 0 ] || return 0
    sleep 0.1
  done
  fail "$1: processes outlive the job: $(ps -o pid=,args= -p "${left[*]}")"
}
again() { # RUN [OPTION…]: the same command completes it
  begin "$@"
  await
  [ "$code" = 0 ] || fail "$1: the same command exited with $code"
  nothing_left "$1"
}

judge=$root/scripts/multi-host/judge.py
seq 1 $PROMPTS | sed 's/.*/Question & of many?/' > prompts.txt
"$scratch/vllm-sim" --port 8000 --instant > sim-login 2>&1 &
for _ in $(seq 100); do grep -qs '^ready' sim-login && break; sleep 0.1; done
timeout 30 python3 "$judge" expect http://127.0.0.1:8000 prompts.txt $MAX_TOKENS expected.json || fail "the expected answers could not be computed"

# --- the main job ----------------------------------------------------------------------------------------------------
serve "${HOSTS[@]}"
begin main
await
[ "$code" = 0 ] || fail "main: exit code $code"
whole main
nothing_left main
# The servers' own counts, beside the run's. Other hosts cannot have sent these requests: loopback is private to a host.
for host in "${HOSTS[@]}"; do end "$host" vllm-sim TERM; done
served=$(cat sim-node* | sed -n 's/^seen .*"distinct_served":\([0-9]*\).*/\1/p')
[ "$(wc -w <<< "$served")" = 8 ] && ! grep -qx 0 <<< "$served" || fail "main: answers counted by the eight servers:" $served
say "main job: $PROMPTS prompts in $took s; per server:" $served

# --- all servers of a host die ---------------------------------------------------------------------------------------
serve "${HOSTS[@]}"
begin servers
amidst servers
end node2 vllm-sim
await
nothing_left servers
[ "$code" = 0 ] || fail "servers: exit code $code with $(count servers open) prompts open, though six servers were left"
whole servers
say "servers of node2 killed: the others answered its prompts in the same run, $took s"
serve node2

# --- an input that only rank 0's host has ----------------------------------------------------------------------------
on node0 cp "$scratch/prompts.txt" /dev/shm/prompts.txt # /dev/shm is private to a host
input=/dev/shm/prompts.txt begin own
await
[ "$code" = 0 ] || fail "own: exit code $code"
grep -q 'input not visible on' own.log || fail "own: the log does not say that only node0 can read the input"
whole own
nothing_left own
say "input on node0's own disk: every rank was sent its rows, $took s"

# --- a run folder that only rank 0's host has ------------------------------------------------------------------------
# Without --local-shards it is refused. With it, the run is stopped early and resumed, and all answers end on node0.
name=/dev/shm/apart local=(--local-shards /dev/shm/answers)
home() { on node0 sh -c "cat $name.jsonl.run/shards/*" | grep -c '"index"' || true; }
away() { for host in "${HOSTS[@]}"; do on "$host" find /dev/shm/answers -mindepth 1; done; }
log=apart begin "$name"
await
[ "$code" = 5 ] && grep -q 'cannot see the run folder' apart.log || fail "apart: exit code $code without --local-shards"
log=apart begin "$name" "${local[@]}" --walltime 5s
await
[ "$code" = 75 ] || fail "apart: exit code $code with a short walltime"
kept=$(home)
[ "$kept" -gt 0 ] && [ -z "$(away)" ] || fail "apart: $kept answers were collected, and these files stayed:" $(away)
log=apart begin "$name" "${local[@]}"
await
[ "$code" = 0 ] || fail "apart: the same command exited with $code"
[ "$(home)" = $PROMPTS ] && [ -z "$(away)" ] || fail "apart: $(home) answers were collected, and these files stayed:" $(away)
on node0 cp -r $name.jsonl $name.jsonl.run "$scratch/"
whole apart
nothing_left apart
say "output on node0's own disk, shards on each host's: $kept answers collected at the deadline, the rest by the same command"

# --- a rank is killed ------------------------------------------------------------------------------------------------
begin rank
amidst rank
read -r victim _ <<< "$(processes node1 aurora-swarm | paste -sd' ')"
kill -KILL "$victim"
await
[ "$code" != 0 ] || fail "rank: exit code 0 though a rank was killed"
nothing_left rank
how="MPI ended the job (code $code), $(answered rank) answers were kept, and the same command completed it"
again rank
whole rank
say "rank of node1 killed: $how"

# --- a cable is unplugged -----------------------------------------------------------------------------------------------
silence=10 option=(--rank-silence 10s)
begin cable "${option[@]}"
amidst cable
# A real host would lose the shared files as well. Here its servers are stopped, so that it cannot write answers.
cut_cable node3
signal node3 vllm-sim STOP
over() { ! runs || ! grep -q '"state": "running"' cable.jsonl.run/manifest.json; }
while ! over && ((SECONDS < from + silence + 40)); do sleep 0.2; done
ended=$((SECONDS - from))
if over; then how="rank 0 ended the job after $ended s with $(count cable open) prompts open"; else how="the job hung for $ended s"; fi
for _ in $(seq 50); do runs || break; sleep 0.1; done
if runs; then # mpiexec may wait forever for an unreachable host
  how+=", mpiexec was killed"
  end login '(mpiexec.*|prterun)'
fi
await
how+=" (code $code)"
lost=$(python3 -c 'import json, sys; print(sum(it["host"] == "node3" for it in json.load(open(sys.argv[1]))["lost"]))' cable.jsonl.run/manifest.json)
[ "$lost" = 2 ] || fail "cable: the manifest names $lost lost ranks of node3 instead of 2"
how+=", the manifest names both ranks of node3, "
mend_cable node3
for _ in $(seq 30); do [ -n "$(processes node3 "$ours")" ] || break; sleep 0.1; done
left=$(processes node3 "$ours" | wc -l)
if [ "$left" = 0 ]; then how+="no process was left on node3"; else how+="$left processes left on node3 were killed"; fi
end node3 "$ours"
signal node3 vllm-sim CONT
nothing_left cable
[ -e cable.jsonl ] || fail "cable: rank 0 did not write the answers"
whole cable
say "cable of node3 unplugged: $how"
printf 'multi-host: %s hosts, 8 ranks: main job, own input, own disks and 3 faults passed, %s s\n' ${#HOSTS[@]} $((SECONDS - began))
