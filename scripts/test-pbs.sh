#!/usr/bin/env bash
# Runs the job scripts of pbs/ from end to end on this machine, with stand-ins (tests/pbs/bin) for qsub, qstat, mpiexec,
# module and vllm, and with two "nodes" that are both this machine. The ranks, their MPI and the run's files are real.
#
#   scripts/test-pbs.sh [FOLDER]     FOLDER has aurora-swarm and vllm-sim [default: $CARGO_TARGET_DIR or target, /debug]
#
# AURORA_SWARM_BIN and VLLM_SIM_BIN name the programs instead; KEEP=1 keeps the scratch folder.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
root=$PWD

folder=${1:-${CARGO_TARGET_DIR:-target}/debug}
swarm=${AURORA_SWARM_BIN:-$folder/aurora-swarm}
sim=${VLLM_SIM_BIN:-$folder/vllm-sim}
unset AURORA_SWARM_BIN # the program rejects AURORA_SWARM_… variables that are not settings
for it in "$swarm" "$sim"; do
  [ -x "$it" ] || { echo "test-pbs: $it is missing: cargo build --workspace" >&2; exit 1; }
done
if [ -z "${AURORA_MPIEXEC-}" ]; then
  [ -f .mpi/env ] || { echo "test-pbs: no MPI: run scripts/setup.sh" >&2; exit 1; }
  . .mpi/env
fi

scratch=$(mktemp -d "${TMPDIR:-/tmp}/test-pbs.XXXXXX")
job='' passed=0
tidy() {
  if [ -n "$job" ]; then kill "$job" 2> /dev/null; wait "$job" 2> /dev/null; fi
  if [ -n "${KEEP-}" ]; then echo "test-pbs: kept $scratch"; else rm -rf "$scratch"; fi
}
trap tidy EXIT
trap 'exit 1' INT TERM

ok() { passed=$((passed + 1)); printf 'ok %s\n' "$*"; }
fail() {
  printf 'FAILED %s\n' "$*" >&2
  [ -f "$scratch/out" ] && sed 's/^/  | /' "$scratch/out" | tail -n 60 >&2
  exit 1
}
check() { # what, then a command that must succeed
  local what=$1; shift
  "$@" || fail "$what"
  ok "$what"
}

# --- static checks ---------------------------------------------------------------------------------------------------
for it in pbs/*.pbs tests/pbs/bin/* scripts/test-pbs.sh; do bash -n "$it" || fail "$it is not a shell script"; done
ok "every script parses"

# Every long option that a script passes to the program is in its --help. `options=(…)` are options of `run`.
options_of() { # COMMAND-PATTERN (with one group) SCRIPT: prints the options from there to the end of the command
  sed -e ':join' -e '/\\$/{N;s/\\\n/ /;bjoin' -e '}' "$2" | grep -v '^ *#' \
    | sed -nE "s/.*$1 (.*)/\2/p" | sed 's/ \(||\|&\|>\) .*//' | grep -oE -- '--[a-z][a-z-]*' | sort -u
}
looked_at=0
for script in pbs/*.pbs; do
  for command in run check status; do
    known=$(timeout 10 "$swarm" "$command" --help)
    used=$(options_of "(\"\\\$SWARM\"|\"\\\$\{swarm\[@\]\}\"|aurora-swarm) $command" "$script")
    [ "$command" = run ] && used+=" $(sed -n 's/^options=(\(.*\))/\1/p' "$script" | grep -oE -- '--[a-z][a-z-]*')"
    for option in $used; do
      grep -qE -- "(^|[ ,])$option( |\$)" <<< "$known" || fail "$script: aurora-swarm $command has no $option"
      looked_at=$((looked_at + 1))
    done
  done
done
((looked_at >= 20)) || fail "only $looked_at options were found in pbs/: this test no longer reads the scripts"
ok "all $looked_at options passed to aurora-swarm are in its --help"

# --- environment of a job --------------------------------------------------------------------------------------------
mkdir -p "$scratch"/{pbs,scripts,.mpi,target/release,stand-in}
cp pbs/*.pbs "$scratch/pbs/"
# Copies, so that a build during the test does not replace the programs.
cp "$swarm" "$scratch/target/release/aurora-swarm"
cp "$sim" "$scratch/target/release/vllm-sim"
echo 'echo setup >> "$STAND_IN/setup.log"' > "$scratch/scripts/setup.sh"
chmod +x "$scratch/scripts/setup.sh"
echo 'echo env >> "$STAND_IN/setup.log"' > "$scratch/.mpi/env"
printf 'node1\nnode2\n' > "$scratch/nodes"
seq 1 600 | sed 's/.*/Question & of many?/' > "$scratch/prompts.txt"
head -n 200 "$scratch/prompts.txt" > "$scratch/few.txt"

free_ports() { # prints the first of twelve free ports below the kernel's ephemeral range
  local base k
  for ((base = 21000 + RANDOM % 5000; base < 32000; base += 12)); do
    for ((k = 0; k < 12; k++)); do
      (exec 3<> "/dev/tcp/127.0.0.1/$((base + k))") 2> /dev/null && continue 2
    done
    echo "$base"
    return
  done
}

export STAND_IN=$scratch/stand-in STAND_IN_SIM=$scratch/target/release/vllm-sim
export PBS_O_WORKDIR=$scratch PBS_NODEFILE=$scratch/nodes AURORA_MPIEXEC TMPDIR=/tmp
number=0
# submit SECONDS SCRIPT NAME=VALUE…: runs the script as a job; its output is in $scratch/out, its exit code in $code.
submit() {
  local deadline=$1 script=$2 base; shift 2
  base=$(free_ports)
  number=$((number + 1))
  rm -f "$STAND_IN"/*
  # PBS runs a copy of the script in a folder of its own.
  cp "$scratch/pbs/$script" "$scratch/spooled.SC"
  (cd "$scratch" && exec env HOME="$scratch" PBS_JOBID=$number.stand-in PATH="$root/tests/pbs/bin:$PATH" BASE_PORT="$base" "$@" \
    timeout -k 20 "$deadline" bash spooled.SC > out 2>&1 < /dev/null) &
  job=$!
  wait "$job"
  code=$? job=''
  [ "$code" != 124 ] || [ -n "${qdel-}" ] || fail "$script did not end in $deadline s"
}
calls() { if [ -f "$STAND_IN/$1.log" ]; then wc -l < "$STAND_IN/$1.log"; else echo 0; fi; }
says() { grep -qE -- "$1" "$scratch/out"; }
status() { # OUTPUT FIELD: prints a field of the run's status
  "$scratch/target/release/aurora-swarm" status "$scratch/$1" --json | sed -n "s/.*\"$2\": *\"\{0,1\}\([a-z0-9]*\).*/\1/p"
}
ids_in_order() { # OUTPUT N: there are N answers, each once and in input order
  [ "$(sed -n 's/.*"index": *\([0-9]*\).*/\1/p' "$scratch/$1" | paste -sd' ')" = "$(seq 0 $(($2 - 1)) | paste -sd' ')" ]
}
nothing_left() { # no process of the job is left; all of them work in the scratch folder
  local i
  for ((i = 0; i < 50; i++)); do
    # (readlink fails for processes that exit meanwhile)
    grep -qxF "$scratch" < <(readlink /proc/[0-9]*/cwd 2> /dev/null) || return 0
    sleep 0.1
  done
  return 1
}

# --- build -----------------------------------------------------------------------------------------------------------
submit 60 build.pbs
check "build: succeeds without servers" [ "$code" = 0 ]
check "build: sets up, reads .mpi/env, builds once" \
  [ "$(paste -sd' ' "$STAND_IN/setup.log"; cat "$STAND_IN/cargo.log")" = "setup env
build --release --workspace" ]
check "build: two ranks share one MPI" says '0 of [0-9]+ endpoints ready on 2 ranks'

# --- smoke -----------------------------------------------------------------------------------------------------------
submit 120 smoke.pbs
check "smoke: passes" [ "$code" = 0 ]
check "smoke: two ranks, twelve servers" says '12 of 12 endpoints ready on 2 ranks'
check "smoke: 10,000 answers, each once, in order" ids_in_order smoke-$number/answers.jsonl 10000
check "smoke: leaves no process behind" nothing_left

submit 60 smoke.pbs SIM=/bin/false
check "smoke: fails with a message if servers do not start" \
  eval '[ "$code" = 1 ] && says "the simulated servers exited" && nothing_left'

# --- run: no faults ------------------------------------------------------------------------------------------------
# `run` waits for every server, also for those that never start, so the timeout is short.
common=(PROMPTS=prompts.txt MODEL=stand-in/model READY_TIMEOUT=60s MAX_TRIES=1)
submit 120 run.pbs "${common[@]}" OUTPUT=well.jsonl
check "run: completes, exit 0" [ "$code" = 0 ]
check "run: every answer once, in order" ids_in_order well.jsonl 600
check "run: no qsub" [ "$(calls qsub)" = 0 ]
check "run: loads frameworks" [ "$(cat "$STAND_IN/module.log")" = "load frameworks" ]
base=$(sort -n "$STAND_IN/vllm.log" | head -n 1 | cut -d' ' -f1)
check "run: twelve servers, each with its tile and ports" \
  [ "$(sort -n "$STAND_IN/vllm.log")" = "$(for ((k = 0; k < 12; k++)); do
    echo "$((base + k)) ZE_AFFINITY_MASK=$k VLLM_PORT=$((20000 + 100 * k)) OMP_NUM_THREADS=8"; done)" ]
check "run: leaves no process behind" nothing_left

submit 60 run.pbs "${common[@]}" OUTPUT=well.jsonl PROMPTS=missing.txt
check "run: a missing input ends the job with 5, without qsub" \
  eval '[ "$code" = 5 ] && [ "$(calls qsub)" = 0 ] && says "the run was refused"'

# --- run: a chain of jobs --------------------------------------------------------------------------------------------
submit 120 run.pbs "${common[@]}" OUTPUT=chain,1.jsonl STAND_IN_VLLM=dies
open=$(status chain,1.jsonl open)
check "chain: servers that die leave prompts open ($open of 600), exit 75" \
  eval '[ "$code" = 75 ] && ((open > 0 && open < 600))'
check "chain: does not wait for servers that exited" says 'all servers exited'
check "chain: asks qsub once, for itself" \
  eval '[ "$(calls qsub)" = 1 ] && grep -q " pbs/run.pbs$" "$STAND_IN/qsub.log"'
mapfile -t next < <(grep -v '^BASE_PORT=' "$STAND_IN/qsub.env") # these ports may be in use by then
check "chain: the next job gets the same variables, and one job fewer" \
  [ "$(printf '%s\n' "${common[@]}" OUTPUT=chain,1.jsonl JOBS_LEFT=19 | grep -cFxf - "$STAND_IN/qsub.env")" = 6 ]
check "chain: the job says so" says "open prompts: $open; job 4712.stand-in continues"

submit 120 run.pbs "${next[@]}" STAND_IN_VLLM=never
check "chain: no progress, no qsub" eval '[ "$code" = 75 ] && [ "$(calls qsub)" = 0 ]'
check "chain: the message gives the reason" says "stopped: this job answered none of the $open open prompts"
check "chain: the servers' output is in a file" \
  eval 'grep -q "^tile 0: vllm .*: no such device" "$scratch"/logs/$number/*'

submit 120 run.pbs "${next[@]}" STAND_IN_VLLM=dies JOBS_LEFT=0
check "chain: its last job does not ask qsub" \
  eval '[ "$code" = 75 ] && [ "$(calls qsub)" = 0 ] && says "last job of the chain"'

submit 120 run.pbs "${next[@]}"
check "chain: the next job resumes and completes" \
  eval '[ "$code" = 0 ] && [ "$(calls qsub)" = 0 ] && [ "$(status chain,1.jsonl starts)" -ge 3 ]'
check "chain: every answer once, in order" ids_in_order chain,1.jsonl 600

# --- run: the walltime -----------------------------------------------------------------------------------------------
submit 90 run.pbs "${common[@]}" OUTPUT=late.jsonl STAND_IN_VLLM=slow STAND_IN_WALLTIME=00:00:30 MARGIN=12 MAX_TRIES=2
open=$(status late.jsonl open)
check "walltime: the run is ended in time ($open of 600 open), and qsub asked once" \
  eval '[ "$code" = 75 ] && ((open > 0 && open < 600)) && [ "$(calls qsub)" = 1 ]'
check "walltime: no second try in the margin" says 'not enough walltime is left'
check "walltime: leaves no process behind" nothing_left

# --- run: a lost node ------------------------------------------------------------------------------------------------
submit 180 run.pbs "${common[@]}" PROMPTS=few.txt OUTPUT=lost.jsonl STAND_IN_VLLM=slow STAND_IN_LOSE=node2 MAX_TRIES=2
check "lost node: found by testing each node alone" says 'nodes dropped, .* there: node2$'
check "lost node: the second try on the other completes the run" \
  eval '[ "$code" = 0 ] && [ "$(calls qsub)" = 0 ] && says "try 2 of 2 on 1 of 2 nodes"'
check "lost node: every answer once, in order" ids_in_order lost.jsonl 200
check "lost node: leaves no process behind" nothing_left

# --- run: killed between the last answer and the answers file ----------------------------------------------------------
rm "$scratch/lost.jsonl"
sed -i 's/"state": "finished"/"state": "running"/' "$scratch/lost.jsonl.run/manifest.json"
submit 120 run.pbs "${common[@]}" PROMPTS=few.txt OUTPUT=lost.jsonl MAX_TRIES=0
check "merge: an interrupted gather is repeated" eval '[ "$code" = 0 ] && ids_in_order lost.jsonl 200'

# --- run: qdel -------------------------------------------------------------------------------------------------------
# Like PBS, `timeout` sends SIGTERM to the script and its processes.
qdel=yes submit 15 run.pbs "${common[@]}" OUTPUT=ended.jsonl STAND_IN_VLLM=slow
check "qdel: the job ends, without qsub, and leaves no process behind" \
  eval '[ "$code" = 124 ] && [ "$(calls qsub)" = 0 ] && nothing_left'
check "qdel: answers are kept ($(status ended.jsonl open) of 600 open)" \
  eval '[[ "$(status ended.jsonl state)" =~ ^(lost|stopped)$ ]] && (($(status ended.jsonl open) < 600))'

printf "test-pbs: %s checks passed\n" "$passed"
