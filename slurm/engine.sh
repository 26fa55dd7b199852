# Sourced by train.sbatch: a vLLM server for engine=vllm on the last node of the job. Not run on a GPU yet.

# start_engine CHECKPOINT FOLDER: starts it in the background, and sets engine_url once it answers. It gets the weights from the
# trainer through files in the run folder. Whoever reaches its port can change the model: for nodes that nobody else is on.
start_engine() {
  local node port=$((30000 + SLURM_JOB_ID % 10000))
  node=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | tail -n1)
  getent hosts "$node" > /dev/null || node=$(scontrol show node -o "$node" | grep -o 'NodeAddr=[^ ]*' | cut -d= -f2)
  engine_url=http://$node:$port
  srun --nodes=1 --ntasks=1 --relative=$((SLURM_JOB_NUM_NODES - 1)) \
    python -m models.engine.serve "$1" "$2/engine-served" --host 0.0.0.0 --port "$port" \
    --tensor-parallel-size "${SLURM_GPUS_ON_NODE:-1}" --max-model-len "${ENGINE_MAX_MODEL_LEN:-4096}" &
  local server=$!
  # shellcheck disable=SC2064
  trap "kill $server 2> /dev/null || true" EXIT
  until python -c "import sys, urllib.request as u; u.urlopen(sys.argv[1] + '/health', timeout=5)" "$engine_url" 2> /dev/null; do
    kill -0 "$server" 2> /dev/null || { echo "the engine ended before it answered; its messages are above" >&2; exit 1; }
    sleep "${POLL_SECONDS:-10}"
  done
}
