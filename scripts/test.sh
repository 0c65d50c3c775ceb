#!/usr/bin/env bash
# Runs the tests on a machine where nothing was prepared: sets up an MPI, then checks formatting, lints and documentation
# and runs the unit, integration and MPI tests (1, 2, 3, 5 and 8 ranks). A step that fails does not stop the next one; the
# last lines count the tests and name the steps that failed.
#
#   scripts/test.sh                 everything, with MPICH (or the MPI that MPICC or a module names)
#   scripts/test.sh --mpi openmpi   everything, with Open MPI
#   scripts/test.sh --quick         formatting, lints, unit tests and the fast integration tests
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
exec 2>&1 # one stream, so that the order of output and errors is kept

usage() { sed -n '2,9s/^# \{0,1\}//p' "$0"; }
env=.mpi/env quick= setup=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --mpi)
      case ${2-} in
        mpich) setup=(--mpi mpich) ;;
        openmpi) setup=(--mpi openmpi) env=.mpi/env.openmpi ;;
        *) usage; exit 2 ;;
      esac
      shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage; exit 2 ;;
  esac
  shift
done

began=$SECONDS
scripts/setup.sh ${setup[@]+"${setup[@]}"} || exit 1
# shellcheck disable=SC1090
. "$env"
export TMPDIR=${TMPDIR:-/tmp} # other paths are too long for MPI's sockets

log=$(mktemp)
trap 'rm -f "$log"' EXIT
failed=()

# step NAME COMMAND…: runs the command, keeps its output for the counts, and notes the name if it fails.
step() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee -a "$log"
  [ "${PIPESTATUS[0]}" = 0 ] || { failed+=("$name"); printf 'test.sh: failed: %s\n' "$name"; }
}

lints() {
  cargo clippy --workspace --all-targets --quiet -- -D warnings \
    && cargo clippy --no-default-features --quiet -- -D warnings
}

documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet; }

script_syntax() {
  local script status=0
  for script in scripts/*.sh scripts/*/*.sh pbs/*.pbs .ci/run; do
    [ ! -e "$script" ] || bash -n "$script" || { printf '%s is not a valid shell script\n' "$script"; status=1; }
  done
  return $status
}

# The integration tests that start neither ranks nor servers for long.
quick_tests() {
  cargo test --workspace --lib --no-fail-fast \
    && cargo test --test integration --no-fail-fast -- architecture:: structure:: snapshots:: docs::
}

# All packages at once: one by one, each would compile its dependencies again, with its own choice of features.
all_tests() { cargo test --workspace --no-fail-fast; }

step "formatting" cargo fmt --all --check
step "lints" lints
if [ -n "$quick" ]; then
  step "fast tests" quick_tests
else
  step "documentation" documentation
  step "scripts" script_syntax
  step "names and documentation comments" python3 scripts/naming-stats.py --check
  step "tests" all_tests
  step "job scripts, with stand-ins for PBS" scripts/test-pbs.sh
  step "Parquet, between pyarrow and the program" scripts/test-parquet.sh
  step "the openai Python client: the simulator and batch outputs" scripts/openai-client.sh
  step "four hosts on one machine" scripts/multi-host.sh
  step "reports in a browser" scripts/test-report.sh
  step "torture: kills at random moments, servers with random faults" scripts/torture.sh 0.3 1
fi

count() { grep -c "$1" "$log" || true; }
passed=$(awk '/^test result:/ {sum += $4} END {print sum + 0}' "$log")
whole=$(awk '/Running tests\/integration/ {on = 1} on && /^test result:/ {print $4; exit}' "$log")
printf '\ntest.sh: %s tests passed in %s binaries, %s of them with the whole program\n' \
  "$passed" "$(count '^test result: ok')" "${whole:-0}"
if [ -z "$quick" ]; then
  # Each of these lines is the last one of its step. If it is missing, the step did not finish.
  expect() { # expect NAME PATTERN
    local line
    line=$(grep -oE "$2" "$log" | tail -n 1)
    if [ -n "$line" ]; then printf '  %s\n' "$line"; else failed+=("$1 (its last line is missing)"); fi
  }
  expect "recorded exchanges" 'replayed [0-9]+ of [0-9]+ recordings, [0-9]+ match'
  expect "job scripts" '^test-pbs: .*'
  expect "Parquet" '^parquet: .*'
  expect "openai client" '^openai client: .*'
  expect "openai batch" '^openai batch: .*'
  expect "four hosts" '^multi-host: .*'
  expect "reports" '^report: .*'
  expect "torture" '^torture: [0-9]+ rounds, .*nothing lost, doubled or wrong'
fi
if [ ${#failed[@]} -gt 0 ]; then
  printf '\ntest.sh: FAILED after %s s:\n' "$((SECONDS - began))"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
printf 'test.sh: all passed in %s s\n' "$((SECONDS - began))"
