# Several hosts on one machine, made of Linux namespaces. Each has its own network with its own 127.0.0.1, hostname,
# /dev/shm and processes; files are shared, as on a cluster. scripts/multi-host.sh sources it.
#
# The script itself runs in namespaces too (`isolated`). They contain the bridge between the hosts, so that the machine's
# own network is not changed and no name is taken, and all processes, which the kernel kills with the first one. No host
# can therefore outlive the script.

# Prefix of a command that starts it in such namespaces; without root, in a user namespace where these are allowed.
# `setpriv` ends the command if its parent is killed and cannot clean up.
isolated=(setpriv --pdeathsig KILL unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc)
[ "$(id -u)" = 0 ] || isolated+=(--user --map-root-user)

# Prints the reason if hosts cannot be made on this machine.
hindrance() {
  local tool said
  for tool in ip setpriv unshare nsenter; do
    command -v "$tool" > /dev/null || { echo "$tool is not installed"; return; }
  done
  said=$("${isolated[@]}" sh -c 'hostname a && ip link add name br0 type bridge && ip link add name v0 type veth peer name v1' 2>&1) \
    || { echo "network namespaces are not allowed here: $(head -n 1 <<< "$said")"; return; }
  case $(launcher) in
    *ch4:ucx[!,]*) echo "this MPICH has only UCX, whose jobs over TCP hang at their end" ;;
    *HYDRA* | *"Open MPI"* | *OpenRTE* | *PRRTE*) ;;
    *) echo "$AURORA_MPIEXEC is neither MPICH's nor Open MPI's, and its options for hosts are not known" ;;
  esac
}
launcher() { "$AURORA_MPIEXEC" --version 2>&1 || true; } # prints its version

declare -A keeper=([login]=$$) # the process that holds the namespaces, by host

# hosts_up FOLDER HOST…: makes hosts that are connected by a bridge, and keeps their files in FOLDER. The outer side is a
# host too, `login`, where mpiexec runs.
hosts_up() {
  local folder=$1 i=0 host _
  shift
  printf '%s\n' "127.0.0.1 localhost" "10.77.0.254 login" > "$folder/hosts"
  for host; do echo "10.77.0.$((i += 1)) $host" >> "$folder/hosts"; done
  mount --bind "$folder/hosts" /etc/hosts
  # A replacement for ssh: `rsh [OPTION…] HOST WORDS…` runs the words in a shell on the host.
  cat > "$folder/rsh" << RSH
#!/usr/bin/env bash
while [ "\${1#-}" != "\$1" ]; do shift; done
keeper=\$(cat "$folder/\$1.keeper") || exit 255
shift
exec nsenter --target "\$keeper" --net --mount --uts --ipc --pid="/proc/\$keeper/ns/pid_for_children" bash -c "\$*"
RSH
  chmod +x "$folder/rsh"
  rsh=$folder/rsh
  hostname login
  mount -t tmpfs -o size=1g tmpfs /dev/shm
  ip link set lo up
  ip link add name bridge type bridge
  ip link set bridge up
  ip addr add 10.77.0.254/24 dev bridge
  i=0
  for host; do
    # A host's first process must reap orphans, or they stay zombies.
    unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c '
      hostname "$1" && mount -t tmpfs -o size=1g tmpfs /dev/shm && ip link set lo up && touch "$2" || exit 1
      sleep infinity & wait' bash "$host" "$folder/$host.up" &
    keeper[$host]=$!
    for _ in $(seq 100); do [ -e "$folder/$host.up" ] && break; sleep 0.05; done
    [ -e "$folder/$host.up" ] || { echo "multi-host: the host $host did not start" >&2; return 1; }
    ip link add name "$host" type veth peer name eth0 netns "${keeper[$host]}"
    ip link set "$host" master bridge up
    echo "${keeper[$host]}" > "$folder/$host.keeper"
    on "$host" ip addr add "10.77.0.$((i += 1))/24" dev eth0
    on "$host" ip link set eth0 up
  done
}
on() { "$rsh" "$1" "$(printf '%q ' "${@:2}")"; } # host, command

# mpiexec_over HOST…: sets $mpiexec to the command that starts two ranks per host over TCP, without their number.
mpiexec_over() {
  if [[ $(launcher) == *HYDRA* ]]; then
    mpiexec=("$AURORA_MPIEXEC" -launcher ssh -launcher-exec "$rsh" -hosts "$(IFS=,; echo "$*")" -ppn 2)
    export MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp
  else
    mpiexec=("$AURORA_MPIEXEC" --host "$(IFS=,; echo "${*/%/:2}")" --map-by ppr:2:node:oversubscribe)
    # (the launcher's variables for versions 4 and 5)
    export OMPI_MCA_btl=tcp,self OMPI_MCA_plm_rsh_agent=$rsh PRTE_MCA_plm_ssh_agent=$rsh
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

cut_cable() { ip link set "$1" down; }
mend_cable() { ip link set "$1" up; }

# processes HOST PATTERN: prints the processes of a host whose whole name matches an extended regular expression.
processes() {
  local process space
  space=$(readlink "/proc/${keeper[$1]}/ns/pid_for_children")
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/pid")" = "$space" ] && grep -qsxE "$2" "$process/comm" && echo "${process#/proc/}"
  done 2> /dev/null
  true
}
signal() { # HOST PATTERN SIGNAL
  local pids
  pids=$(processes "$1" "$2")
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill -"$3" $pids 2> /dev/null || true # some may have exited meanwhile
}
end() { # HOST PATTERN [SIGNAL]: signals the processes until they are gone
  local _
  for _ in $(seq 50); do
    [ -n "$(processes "$1" "$2")" ] || return 0
    signal "$1" "$2" "${3-KILL}"
    sleep 0.1
  done
  echo "multi-host: processes $2 on $1 cannot be ended" >&2
  return 1
}
