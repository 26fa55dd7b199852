# Sourced by teacher.sbatch and synth.sbatch: a vLLM server for the teacher, on the GPUs of this node. Not run on a GPU yet.
# Needs the extra `vllm` in the environment and, for Qwen3-Omni-30B-A3B, some 60 GB for the weights and as much again to work in:
# two GPUs of 80 GB, or four of 48 GB. What can be set, from outside:
#   MODEL            where the weights are: a folder, or a name on the hub; answers to the name that `teacher.model` says
#   SERVED           that name, where MODEL is a folder
#   TENSOR_PARALLEL  GPUs that share one copy of the model; all of the node unless said otherwise. The others hold more copies
#   MEDIA_ROOT       folder whose files the server may read, for teacher.media=file on a shared disk
#   VLLM_API_KEY     a key that clients must send (teacher.api_key_env=VLLM_API_KEY): without one, whoever reaches the port is served

# start_teacher HOST PORT OPTIONS...: starts it in the background as $server, and returns once it answers.
start_teacher() {
  local host=$1 port=$2 gpus=${SLURM_GPUS_ON_NODE:-1} model=${MODEL:-Qwen/Qwen3-Omni-30B-A3B-Instruct}
  local shared=${TENSOR_PARALLEL:-$gpus}
  # a clip's own sound may travel beside its film, so there are two sounds to a prompt
  python -m vllm.entrypoints.openai.api_server --model "$model" --served-model-name "${SERVED:-$model}" \
    --host "$host" --port "$port" --dtype bfloat16 --max-model-len 32768 --max-num-seqs 64 --gpu-memory-utilization 0.9 \
    --tensor-parallel-size "$shared" --data-parallel-size $((gpus / shared)) \
    --limit-mm-per-prompt '{"audio": 2, "video": 1, "image": 1}' \
    ${MEDIA_ROOT:+--allowed-local-media-path "$MEDIA_ROOT"} "${@:3}" &
  server=$!
  trap 'kill "$server" 2>/dev/null && wait "$server" || true' EXIT
  # Loading takes minutes. A server that died ends the job at once.
  until answers "http://127.0.0.1:$port"; do
    kill -0 "$server" 2>/dev/null || { echo "the server ended before it answered; its messages are above" >&2; exit 1; }
    sleep "${POLL_SECONDS:-10}"
  done
}

# answers URL: whether a server there is ready.
answers() {
  python -c "import sys, urllib.request as u; u.urlopen(sys.argv[1] + '/health', timeout=5)" "$1" 2>/dev/null
}
