# Functions for test scripts that need a simulated server and a Python package. Source it.

# with_package VENV MODULE PACKAGE: makes a virtual environment and installs the package, unless MODULE can be imported.
with_package() {
  "$1/bin/python" -c "import $2" 2> /dev/null && return
  python3 -m venv "$1" || die "python3 cannot make a virtual environment; install python3-venv"
  "$1/bin/pip" install --quiet --disable-pip-version-check "$3" \
    || die "pip could not install $3; is the package index reachable?"
}

# start_simulator LOG [OPTIONS]: starts a server and sets $simulator, a process that the caller ends, and its $url.
start_simulator() {
  local log=$1
  shift
  "$target/debug/vllm-sim" --port 0 "$@" > "$log" 2>&1 &
  simulator=$!
  url=
  for _ in $(seq 100); do
    url=$(sed -n 's/^ready //p' "$log")
    [ -z "$url" ] || return 0
    kill -0 "$simulator" 2> /dev/null || break
    sleep 0.1
  done
  cat "$log" >&2
  die "the simulator did not start (see above)"
}
