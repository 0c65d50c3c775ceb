#!/usr/bin/env bash
# Runs every test, on a machine where nothing was done before: sets up, then formatting, lints, documentation, unit,
# integration and MPI tests (1, 2, 3, 5 and 8 ranks). Its last line counts them.
#
#   scripts/test.sh                 with MPICH (or the MPI that MPICC or a module names)
#   scripts/test.sh --mpi openmpi   with Open MPI
set -euo pipefail
cd "$(dirname "$0")/.."
exec 2>&1 # one story in one order, whichever stream is kept

env=.mpi/env
case "${1-} ${2-}" in
  " " | "--mpi mpich") ;;
  "--mpi openmpi") env=.mpi/env.openmpi ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
began=$SECONDS
scripts/setup.sh "$@"
# shellcheck disable=SC1090
. "$env"
export TMPDIR=${TMPDIR:-/tmp} # socket paths of MPI are too long elsewhere

log=$(mktemp)
trap 'rm -f "$log"' EXIT
step() { printf '\n== %s\n' "$*"; }
fail() { printf '\ntest.sh: %s\n' "$*" >&2; exit 1; }

step formatting
cargo fmt --all --check || fail "run cargo fmt --all"

step lints
cargo clippy --workspace --all-targets --quiet -- -D warnings || fail "clippy has complaints (above)"
cargo clippy --no-default-features --quiet -- -D warnings || fail "clippy has complaints without the mpi feature (above)"

step documentation
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet || fail "rustdoc has complaints (above)"

step scripts
for script in scripts/*.sh scripts/*/*.sh pbs/*.pbs .ci/run; do
  [ ! -e "$script" ] || bash -n "$script" || fail "$script is no shell script"
done

step tests
# All packages at once: one by one, each would compile its dependencies anew, with its own choice of features.
cargo test --workspace --no-fail-fast 2>&1 | tee "$log" || fail "tests failed (above)"

step "job scripts, with stand-ins for PBS"
scripts/test-pbs.sh 2>&1 | tee -a "$log" || fail "a job script does not do what it should (above)"

step "Parquet, between pyarrow and the program"
scripts/test-parquet.sh 2>&1 | tee -a "$log" || fail "what one writes the other does not read as it was meant (above)"

step "the openai Python client against the simulator"
scripts/openai-client.sh 2>&1 | tee -a "$log" || fail "the openai client met something it does not expect (above)"

step "four hosts on one machine, and what can happen to them"
scripts/multi-host.sh 2>&1 | tee -a "$log" || fail "a job over several hosts does not end as it should (above)"

step "the reports of a run and of a reduce, in a browser"
scripts/test-report.sh 2>&1 | tee -a "$log" || fail "a report does not say what happened, or does not look as it should (above)"
report=$(grep -o '^report: .*' "$log" | tail -n 1 || true)
[ -n "$report" ] || fail "the test of the reports did not come to its end (above)"

step "the job, killed at random moments against servers with random faults"
scripts/torture.sh 0.3 1 2>&1 | tee -a "$log" || fail "the torture found something lost, doubled or wrong (above)"
torture=$(grep -o '^torture: [0-9]* rounds, .*nothing lost, doubled or wrong' "$log" | tail -n 1 || true)
[ -n "$torture" ] || fail "the torture did not come to its end (above)"

count() { grep -c "$1" "$log" || true; }
whole=$(awk '/Running tests\/integration/ {on = 1} on && /^test result:/ {print $4; exit}' "$log")
passed=$(awk '/^test result:/ {sum += $4} END {print sum + 0}' "$log")
printf '\ntest.sh: all passed: %s tests in %s binaries (%s of the whole program), %s; %s; %s; %s; %s; %s; %s; %s s\n' \
  "$passed" "$(count '^test result: ok')" "$whole" \
  "$(grep -o 'replayed [0-9]* of [0-9]* recordings, [0-9]* match' "$log" | head -n 1 || true)" \
  "$(grep -o 'test-pbs: .*' "$log" | head -n 1 || true)" \
  "$(grep -o '^parquet: .*' "$log" | head -n 1 || true)" \
  "$(grep -o 'openai client: .*' "$log" | head -n 1 || true)" \
  "$(grep -o '^multi-host: .*' "$log" | tail -n 1 || true)" "$report" "$torture" "$((SECONDS - began))"
