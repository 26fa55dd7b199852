#!/usr/bin/env bash
# Submits a batch script as one text: with the options of the command line among its own, what it sources put in, its arguments set.
#
#   slurm/submit.sh --dry-run [OPTIONS OF sbatch...] slurm/train.sbatch rl run.name=NAME ...     # prints it, and submits nothing
#   slurm/submit.sh           [OPTIONS OF sbatch...] slurm/train.sbatch rl run.name=NAME ...     # submits exactly that
#
# Options of sbatch in their form with `=` (--nodes=2), so that the script can be told from their values.
set -euo pipefail
usage="usage: slurm/submit.sh [--dry-run] [OPTIONS OF sbatch...] SCRIPT [ARGUMENTS...]"
dry=
[[ ${1:-} != --dry-run ]] || { dry=1; shift; }
options=()
while [[ ${1:-} == -* ]]; do
  options+=("$1")
  shift
done
script=${1:?$usage}
[[ -f $script ]] || { echo "$script: there is no such script; $usage; write options with = (--nodes=2)" >&2; exit 2; }
shift

text=$(
  sed -n '1p; /^#SBATCH/p' "$script"
  for option in "${options[@]}"; do echo "#SBATCH $option"; done # the last of two is the one that counts
  printf 'set --'
  printf ' %q' "$@"
  echo
  while IFS= read -r line; do
    if [[ $line =~ ^\ *source\ .*(slurm/[a-z]+\.sh)\"?$ ]]; then
      cat "${BASH_REMATCH[1]}"
    else
      printf '%s\n' "$line"
    fi
  done < <(sed '1d; /^#/d' "$script")
)
if [[ -n $dry ]]; then
  echo "$text"
else
  sbatch <<< "$text"
fi
