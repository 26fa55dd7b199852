#!/usr/bin/env bash
# Ends the cluster that up.sh started in FOLDER, and its jobs: exactly the daemons whose pid files lie there.
#
#   slurm/local/down.sh FOLDER
set -euo pipefail
root=$(realpath -m "${1:?usage: down.sh FOLDER}")
export SLURM_CONF=$root/slurm.conf
if [[ -f $root/pid/slurmctld.pid ]]; then
  timeout 10 scancel --user="$(id -un)" 2> /dev/null || true
  for _ in $(seq 100); do # a job that is signalled may take KillWait over it
    [[ -n $(timeout 10 squeue --noheader 2> /dev/null || true) ]] || break
    sleep 0.1
  done
fi
for file in "$root"/pid/slurmd-*.pid "$root"/pid/slurmctld.pid; do
  [[ -f $file ]] || continue
  pid=$(< "$file")
  # a number outlives its process: is it still that of such a daemon?
  if [[ $(ps -o comm= -p "$pid" || true) == slurm* ]]; then
    kill "$pid"
    for _ in $(seq 100); do
      kill -0 "$pid" 2> /dev/null || break
      sleep 0.1
    done
    kill -KILL "$pid" 2> /dev/null || true # one that never met its controller takes longer than that
  fi
  rm -f "$file"
done
