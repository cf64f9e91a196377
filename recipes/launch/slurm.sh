#!/usr/bin/env bash
#SBATCH --job-name=trl-lambda
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Training on all nodes but the last, which serves vLLM; on a single node vLLM runs in the training
# processes. From the repository's folder, in an environment with the package installed:
#
#     sbatch --nodes=3 recipes/launch/slurm.sh recipes/configs/dr_grpo_qwen2.5_math_7b.yaml
#
# Options of recipes/grpo_lambda.py may follow. A job that is started again (the same command, or
# SLURM's requeue) continues from its last checkpoint. Whatever fails first, the server or training
# on any node, ends the job with its status.
#
# Change by environment: GPUS (a node; 8), ENGINE (ddp, zero2, zero3 or fsdp2; zero2),
# TENSOR_PARALLEL (of the server; 4, which divides the attention heads of Qwen2.5 1.5B to 7B, as 8
# does not), PORT (29500), SERVER_PORT (8000). The server's development endpoints, which the weights
# need, know no passwords: keep its port inside the cluster.
set -euo pipefail

fail() {
  echo "slurm.sh: $*" >&2
  exit 2
}

# Prints the YAML file's value of an option, without quotes and comment; fails where it gives none.
setting() {
  sed -n "s/^$1: *[\"']\{0,1\}\([^\"' #]*\).*/\1/p" "$CONFIG" | grep . ||
    fail "$CONFIG does not set $1, which the vLLM server needs."
}

# shellcheck disable=SC2329  # this and the next are called by srun's shells
serve() {
  VLLM_SERVER_DEV_MODE=1 vllm serve "$MODEL" \
    --port "$SERVER_PORT" \
    --tensor-parallel-size "$TENSOR_PARALLEL" \
    --max-model-len "$MAX_MODEL_LEN" \
    --generation-config vllm \
    --weight-transfer-config '{"backend": "nccl"}' \
    --logprobs-mode processed_logprobs \
    --max-logprobs -1
}

# shellcheck disable=SC2329
train() {
  RANK=$SLURM_NODEID # 0, 1, ... over the nodes of this step
  accelerate launch --config_file "recipes/accelerate/$ENGINE.yaml" \
    --num_machines "$MACHINES" \
    --num_processes "$((MACHINES * GPUS))" \
    --machine_rank "$RANK" \
    --main_process_ip "$HEAD" \
    --main_process_port "$PORT" \
    --deepspeed_multinode_launcher standard \
    recipes/grpo_lambda.py --config "$CONFIG" --resume_from_checkpoint last "$@"
}

[[ $# -ge 1 && -f $1 ]] || fail "expected a file of recipes/configs as first argument, got '${1-}'."
CONFIG=$1
shift
GPUS=${GPUS:-8} ENGINE=${ENGINE:-zero2} PORT=${PORT:-29500}
SERVER_PORT=${SERVER_PORT:-8000} TENSOR_PARALLEL=${TENSOR_PARALLEL:-4}

mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[[ ${#hosts[@]} -eq $SLURM_JOB_NUM_NODES ]] ||
  fail "scontrol named ${#hosts[@]} hosts of $SLURM_JOB_NODELIST, the job has $SLURM_JOB_NUM_NODES."
MACHINES=${#hosts[@]}
server_options=()
if [[ $MACHINES -gt 1 ]]; then
  [[ " $* " != *" --model_name_or_path"* && " $* " != *" --vllm_max_model_length"* ]] ||
    fail "name the model and its length in $CONFIG: the server reads them there."
  MACHINES=$((MACHINES - 1))
  server=${hosts[MACHINES]}
  MODEL=$(setting model_name_or_path)
  MAX_MODEL_LEN=$(setting vllm_max_model_length)
  server_options=(--use_vllm true --vllm_mode server --vllm_server_timeout 1800
    --vllm_server_base_url "http://$server:$SERVER_PORT")
fi
HEAD=${hosts[0]}
trainers=$(IFS=, && echo "${hosts[*]:0:MACHINES}")

export CONFIG GPUS ENGINE PORT SERVER_PORT TENSOR_PARALLEL MACHINES HEAD MODEL MAX_MODEL_LEN
export -f serve train
if [[ -n ${SLURM_CPUS_PER_TASK-} ]]; then
  export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer takes it from sbatch
fi

serving='' training=''
# shellcheck disable=SC2329  # a trap
stop() {
  kill ${serving:+"$serving"} ${training:+"$training"} 2>/dev/null || true # srun ends its step when told to end
  wait
}
trap stop EXIT
runs() { kill -0 "$1" 2>/dev/null; }

if [[ ${#server_options[@]} -gt 0 ]]; then
  srun --nodes=1 --ntasks=1 --nodelist="$server" bash -c serve &
  serving=$!
fi
srun --nodes="$MACHINES" --ntasks="$MACHINES" --nodelist="$trainers" --kill-on-bad-exit=1 \
  bash -c 'train "$@"' train "${server_options[@]}" "$@" &
training=$!

while runs "$training" && { [[ -z $serving ]] || runs "$serving"; }; do
  sleep 1
done
status=0
if runs "$training"; then
  wait "$serving" || status=$?
  echo "slurm.sh: the vLLM server on $server ended before training did, status $status." >&2
  exit $((status > 0 ? status : 1))
fi
wait "$training" || status=$?
[[ $status -eq 0 ]] || echo "slurm.sh: training ended with status $status." >&2
exit "$status"
