# Several hosts on one machine, made of Linux namespaces: each has its own network with its own 127.0.0.1, hostname,
# /dev/shm and processes; the files are shared, as on a cluster. Read by scripts/multi-host.sh, not started.
#
# The script itself runs in namespaces too (`isolated`). They hold the bridge between the hosts, so that the machine's own
# network is not touched and all names are free; and all processes, which the kernel ends with the first one: no host can
# outlive the script, whatever ends that.

# Put before a command: it starts in such namespaces. Without root, as root of a user namespace, where those are allowed.
# `setpriv` is for a parent that is killed with no time to clean up: the command ends with it.
isolated=(setpriv --pdeathsig KILL unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc)
[ "$(id -u)" = 0 ] || isolated+=(--user --map-root-user)

# Why there can be no hosts here; nothing where there can.
hindrance() {
  local tool said
  for tool in ip setpriv unshare nsenter; do
    command -v "$tool" > /dev/null || { echo "$tool is not installed"; return; }
  done
  said=$("${isolated[@]}" sh -c 'hostname a && ip link add name br0 type bridge && ip link add name v0 type veth peer name v1' 2>&1) \
    || { echo "no network namespaces are allowed here: $(head -n 1 <<< "$said")"; return; }
  case $(launcher) in
    *ch4:ucx[!,]*) echo "this MPICH speaks by UCX only, whose jobs hang at their end over TCP" ;;
    *HYDRA* | *"Open MPI"* | *OpenRTE* | *PRRTE*) ;;
    *) echo "$AURORA_MPIEXEC is neither MPICH's nor Open MPI's: how it is told to reach hosts is not known here" ;;
  esac
}
launcher() { "$AURORA_MPIEXEC" --version 2>&1 || true; } # what it says it is

declare -A keeper=([login]=$$) # by host: the process that holds its namespaces

# Hosts with cables to a bridge. This side of it is a host too, `login`, where mpiexec runs.
hosts_up() { # folder for what is to be kept about them, hosts
  local folder=$1 i=0 host _
  shift
  printf '%s\n' "127.0.0.1 localhost" "10.77.0.254 login" > "$folder/hosts"
  for host; do echo "10.77.0.$((i += 1)) $host" >> "$folder/hosts"; done
  mount --bind "$folder/hosts" /etc/hosts
  # What ssh is elsewhere: `rsh [OPTION…] HOST WORDS…` has a shell on the host run the words.
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
    # A host's first process has to be one that asks for the exit codes of orphans, or those stay in the table for ever.
    unshare --net --mount --uts --ipc --pid --fork --kill-child --mount-proc bash -c '
      hostname "$1" && mount -t tmpfs -o size=1g tmpfs /dev/shm && ip link set lo up && touch "$2" || exit 1
      sleep infinity & wait' bash "$host" "$folder/$host.up" &
    keeper[$host]=$!
    for _ in $(seq 100); do [ -e "$folder/$host.up" ] && break; sleep 0.05; done
    [ -e "$folder/$host.up" ] || { echo "multi-host: the host $host does not come up" >&2; return 1; }
    ip link add name "$host" type veth peer name eth0 netns "${keeper[$host]}"
    ip link set "$host" master bridge up
    echo "${keeper[$host]}" > "$folder/$host.keeper"
    on "$host" ip addr add "10.77.0.$((i += 1))/24" dev eth0
    on "$host" ip link set eth0 up
  done
}
on() { "$rsh" "$1" "$(printf '%q ' "${@:2}")"; } # host, command

# The command that starts ranks, two on each of the hosts, by TCP between them; less their number.
mpiexec_over() { # hosts
  if [[ $(launcher) == *HYDRA* ]]; then
    mpiexec=("$AURORA_MPIEXEC" -launcher ssh -launcher-exec "$rsh" -hosts "$(IFS=,; echo "$*")" -ppn 2)
    export MPIR_CVAR_CH4_NETMOD=ofi FI_PROVIDER=tcp
  else
    mpiexec=("$AURORA_MPIEXEC" --host "$(IFS=,; echo "${*/%/:2}")" --map-by ppr:2:node:oversubscribe)
    # (one launcher, named for version 4 and for version 5)
    export OMPI_MCA_btl=tcp,self OMPI_MCA_plm_rsh_agent=$rsh PRTE_MCA_plm_ssh_agent=$rsh
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}

cut_cable() { ip link set "$1" down; }
mend_cable() { ip link set "$1" up; }

# The processes of a host whose name matches.
processes() { # host, extended regular expression for the whole name
  local process space
  space=$(readlink "/proc/${keeper[$1]}/ns/pid_for_children")
  for process in /proc/[0-9]*; do
    [ "$(readlink "$process/ns/pid")" = "$space" ] && grep -qsxE "$2" "$process/comm" && echo "${process#/proc/}"
  done 2> /dev/null
  true
}
signal() { # host, processes' name, signal
  local pids
  pids=$(processes "$1" "$2")
  # shellcheck disable=SC2086
  [ -z "$pids" ] || kill -"$3" $pids 2> /dev/null || true # some may be gone by now
}
end() { # host, processes' name [, signal]: until they are gone
  local _
  for _ in $(seq 50); do
    [ -n "$(processes "$1" "$2")" ] || return 0
    signal "$1" "$2" "${3-KILL}"
    sleep 0.1
  done
  echo "multi-host: $2 on $1 cannot be ended" >&2
  return 1
}
