#!/usr/bin/env bash
# A SLURM cluster of two nodes on this machine, up in a second: to try the batch scripts and for tests/slurm_local. Not root, no
# systemd, no munge, no cgroups, on the loopback only. Needs slurmctld and slurmd (Debian: apt-get install slurm-wlm).
#
#   eval "$(slurm/local/up.sh FOLDER)"   # FOLDER holds everything, and its path is short: names of sockets end at 108 characters
#   slurm/local/down.sh FOLDER
#
# From outside: NODES=2 CPUS=4 GPUS=0 (of each node; a GPU is an empty file, which SLURM counts and nobody can compute on)
# PORT=16817 (and the next NODES ones; below 32768, where ports of passing connections begin)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(realpath -m "${1:?usage: up.sh FOLDER}")
nodes=${NODES:-2} cpus=${CPUS:-4} gpus=${GPUS:-0} port=${PORT:-16817}
PATH=$PATH:/usr/sbin:/sbin
for program in slurmctld slurmd; do
  command -v "$program" > /dev/null || { echo "there is no $program; on Debian: apt-get install slurm-wlm" >&2; exit 1; }
done
mkdir -p "$root"/{state,log,pid,gpu}
touch "$root/gres.conf"

# Those of the machine itself would go ahead of the file.
export SLURM_CONF=$root/slurm.conf
{
  sed -e "s|@ROOT@|$root|g; s|@USER@|$(id -un)|g; s|@HOST@|$(hostname -s)|g; s|@PORT@|$port|g" "$here/slurm.conf.in"
  for ((i = 1; i <= nodes; i++)); do
    echo "NodeName=n$i NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=$cpus RealMemory=1000000" \
      "$( ((gpus == 0)) || echo "Gres=gpu:$gpus") State=UNKNOWN"
  done
  echo "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP"
} > "$SLURM_CONF"
for ((g = 0; g < gpus; g++)); do
  touch "$root/gpu/$g"
  echo "NodeName=n[1-$nodes] Name=gpu File=$root/gpu/$g"
done > "$root/gres.conf"

slurmctld -f "$SLURM_CONF" >&2
for ((i = 1; i <= nodes; i++)); do
  mkdir -p "$root/spool/n$i"
  slurmd -N "n$i" -f "$SLURM_CONF" >&2
done
for _ in $(seq 600); do
  [[ $(sinfo --noheader --Node --format %T 2> /dev/null | grep -c '^idle$') != "$nodes" ]] || break
  sleep 0.1
done
if [[ $(sinfo --noheader --Node --format %T | grep -c '^idle$') != "$nodes" ]]; then
  echo "not all of $nodes nodes are idle after a minute; why is in $root/log" >&2
  exit 1
fi
echo "$nodes idle nodes" >&2
echo "export SLURM_CONF='$SLURM_CONF' PATH='$here/bin':\"\$PATH\""
