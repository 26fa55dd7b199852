# Sourced by the batch scripts: the environment, where the ranks meet, until when to save, and whether to requeue. From outside:
#   VENV=.venv          the environment with the project in it
#   MAX_RESTARTS=20     requeueings of one job
#   SAVE_SECONDS=240    before the end of the job: from then on the ranks save and leave, whether or not a signal has come
#   PREFLIGHT=          options of `python -m runtime.preflight`, for example --free-gb=200

# The clock is looked at after every step. SLURM's signal comes up to half a minute late, so it has to be sent a minute earlier.
: "${SAVE_SECONDS:=240}"
restarts=${SLURM_RESTART_COUNT:-0}
# The number of an array's last task is that of the array, too: by it, all tasks would be asked about, and all requeued.
job=$SLURM_JOB_ID
[[ -z ${SLURM_ARRAY_JOB_ID:-} ]] || job=${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID

usage() {
  echo "$*" >&2
  exit 2
}

enter() {
  cd "$SLURM_SUBMIT_DIR"
  # shellcheck disable=SC1091
  source "${VENV:-.venv}/bin/activate"
  mkdir -p outputs/slurm
}

needs_a_name() {
  [[ " $*" == *" run.name="* || " $*" == *" hydra.run.dir="* ]] ||
    usage "name the run (run.name=NAME), so that a requeued job finds its folder"
}

# meet: exports MASTER_ADDR and MASTER_PORT, of the first node.
meet() {
  local head
  head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
  # A node need not be in DNS; then take the address that SLURM itself uses.
  getent hosts "$head" > /dev/null || head=$(scontrol show node -o "$head" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
  export MASTER_ADDR=$head MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))
}

# save_by: exports UNDERTONE_SAVE_BY, in seconds since 1970; empty for a job without a limit.
save_by() {
  local end
  end=$(squeue --noheader --jobs="$job" --format=%e) || true # a controller that is busy: then there is the signal
  UNDERTONE_SAVE_BY=
  if [[ $end == [0-9]* ]]; then UNDERTONE_SAVE_BY=$(($(date -d "$end" +%s) - SAVE_SECONDS)); fi
  export UNDERTONE_SAVE_BY
}

# Exit codes do not survive torchrun, so "told to stop" is a file, which every node writes when SLURM signals the step.
export TOLD_TO_STOP=$SLURM_SUBMIT_DIR/outputs/slurm/$SLURM_JOB_ID.told-to-stop

out_of_time() {
  [[ -e $TOLD_TO_STOP ]] || { [[ -n ${UNDERTONE_SAVE_BY:-} ]] && (($(date +%s) >= UNDERTONE_SAVE_BY)); }
}

# finish RC: the last line of a script. A job that was stopped before its end starts again, one that failed does not.
finish() {
  local rc=$1
  if ((rc == 0)); then
    echo "finished after $restarts restart(s)"
  elif out_of_time && ((restarts < ${MAX_RESTARTS:-20})); then
    echo "out of time; requeued (restart $((restarts + 1)))"
    scontrol requeue "$job"
    exit 0
  else
    echo "failed with code $rc after $restarts restart(s); not requeued" >&2
  fi
  rm -f "$TOLD_TO_STOP"
  exit "$rc"
}
