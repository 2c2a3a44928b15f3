#!/usr/bin/env bash
# R²VPO in verl on a Ray cluster: NNODES machines (2) with 8 GPUs each.
#
#   examples/verl_ray_cluster.sh head                    # on the first machine
#   examples/verl_ray_cluster.sh worker HEAD_ADDRESS     # on each of the others
#   NNODES=2 examples/verl_ray_cluster.sh train          # on the first machine, once `ray status` shows all GPUs
#
# Every machine has the same environment (run `python -m r2vpo.llm.verl.check` on each: the plugin is looked up where a
# process starts) and sees the folders DATA, RUN and the model under the same path: a checkpoint gathers files from all.
# Model, data and settings are those of verl_one_node.sh, and so are its variables; further arguments go to verl.
set -euo pipefail

PORT=${PORT:-6379}
NNODES=${NNODES:-2}

case ${1:-} in
  head) exec ray start --head --port="$PORT" ;;
  worker) exec ray start --address="${2:?address of the head}:$PORT" ;;
  train)
    shift
    export RAY_ADDRESS=auto
    # Two storage units a machine for the rollouts that are in flight and in the buffer.
    exec "$(dirname "$0")/verl_one_node.sh" trainer.nnodes="$NNODES" \
      transfer_queue.backend.SimpleStorage.num_data_storage_units=$((2 * NNODES)) "$@"
    ;;
  *)
    sed -n '2,12s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
