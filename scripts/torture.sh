#!/usr/bin/env bash
# Kills the job at random moments, against servers with random faults, starts it again, and proves at the end that each
# answer is there once and right.
#
#   scripts/torture.sh [MINUTES] [SEED] [ROUND]    [default: 5 minutes, a seed of its own, from round 1]
#
# What is drawn follows from the seed and the round: `scripts/torture.sh 0 SEED ROUND` draws that one round again. The
# moments of kills are drawn too, but where they hit a process is the machine's affair: repeat it some times. Whatever goes
# wrong ends it, with the folder kept. KEEP=1 keeps it anyway.
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
export TMPDIR=/tmp # socket paths of MPI are too long elsewhere
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 # Open MPI's, as the next line
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1
exec python3 -B "$root/scripts/torture/torture.py" "${CARGO_TARGET_DIR:-$root/target}/debug" \
  "${1:-5}" "${2:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}" "${3:-1}"
