#!/usr/bin/env bash
# Runs a job against servers with random faults, kills it at random moments, starts it again, and checks at the end that
# each answer is present exactly once and correct.
#
#   scripts/torture.sh [MINUTES] [SEED] [ROUND]    [default: 5 minutes, a random seed, from round 1]
#
# All random choices follow from the seed and the round: `scripts/torture.sh 0 SEED ROUND` repeats one round. The times of
# kills are among them, but what a process is doing at that time depends on the machine, so repeat it several times. The
# first error ends the script and keeps its folder. KEEP=1 always keeps it.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
case ${1-} in -*) sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2 ;; esac

if [ -z "${AURORA_MPIEXEC-}" ]; then
  "$root/scripts/setup.sh"
  # shellcheck disable=SC1091
  . "$root/.mpi/env"
fi
cargo build --quiet --workspace --manifest-path "$root/Cargo.toml"
for name in $(compgen -e AURORA_SWARM_ || true) $(compgen -e PMI || true); do unset "$name"; done
export TMPDIR=/tmp # other paths are too long for MPI's sockets
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # these two lines are for Open MPI
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
exec python3 -B "$root/scripts/torture/torture.py" "${CARGO_TARGET_DIR:-$root/target}/debug" \
  "${1:-5}" "${2:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}" "${3:-1}"
