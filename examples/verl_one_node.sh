#!/usr/bin/env bash
# R²VPO (off-policy) in verl on one node with 8 GPUs of 80 GB: model, data, batch, group, learning rate and length of
# arXiv 2601.03320.
#
#   pip install "r2vpo[verl]" "verl[vllm]" && python -m r2vpo.llm.verl.check
#   examples/verl_one_node.sh                                            # DeepSeek-R1-Distill-Qwen-1.5B
#   MODEL=FreedomIntelligence/openPangu-Embedded-1B examples/verl_one_node.sh
#   MODEL=FreedomIntelligence/openPangu-Embedded-7B-V1.1 examples/verl_one_node.sh \
#       actor_rollout_ref.rollout.tensor_model_parallel_size=2 actor_rollout_ref.actor.fsdp_config.optimizer_offload=True
#   examples/verl_one_node.sh --cfg job                                  # print the configuration, start nothing
#
# Every further argument is a setting of verl and wins over those below. openPangu needs a vLLM that knows it.
set -euo pipefail

MODEL=${MODEL:-deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B}
DATA=${DATA:-data}                  # the two parquet files are fetched into it once
RUN=${RUN:-runs/verl-${MODEL##*/}}  # checkpoints; started again, the script goes on from the last one
LAM=${LAM:-0.04}
PYTHON=${PYTHON:-python}

if [[ ! -f $DATA/dapo-math-17k.parquet || ! -f $DATA/aime-2024.parquet ]]; then
  mkdir -p "$DATA"
  "$PYTHON" - "$DATA" <<'PY'
import sys

import pandas
from huggingface_hub import hf_hub_download

for repository, name in (("DAPO-Math-17k", "dapo-math-17k"), ("AIME-2024", "aime-2024")):
    file = hf_hub_download(f"BytedTsinghua-SIA/{repository}", f"data/{name}.parquet", repo_type="dataset")
    rows = pandas.read_parquet(file)
    if repository == "DAPO-Math-17k":  # published with every problem about a hundred times
        rows = rows[~rows["extra_info"].map(lambda info: info["index"]).duplicated()]
    rows.to_parquet(f"{sys.argv[1]}/{name}.parquet")
    print(f"{name}: {len(rows):,} rows")
PY
fi

SETTINGS=(
  # The method. delta and dual=paper|adaptive would move lambda; utd=1 and buffer_iterations=1 is on-policy.
  actor_rollout_ref.actor.policy_loss.lam="$LAM"
  trainer.v1.sampler.sampler_kwargs.buffer_iterations=4
  trainer.v1.sampler.sampler_kwargs.utd=2

  # Data: 128 prompts, 8 answers each, 16384 tokens together; the reward is verl's own math_dapo.
  data.train_files="$DATA/dapo-math-17k.parquet"
  data.val_files="$DATA/aime-2024.parquet"
  data.train_batch_size=128
  data.max_prompt_length=1024
  data.max_response_length=15360
  data.truncation=left
  data.trust_remote_code=True
  actor_rollout_ref.rollout.n=8

  # Optimizer. The paper names no minibatch; with 32 prompts an iteration has 8 gradient steps.
  actor_rollout_ref.model.path="$MODEL"
  actor_rollout_ref.model.trust_remote_code=True
  actor_rollout_ref.model.use_remove_padding=True
  actor_rollout_ref.model.enable_gradient_checkpointing=True
  actor_rollout_ref.actor.optim.lr=1e-6
  actor_rollout_ref.actor.ppo_mini_batch_size=32
  actor_rollout_ref.actor.use_dynamic_bsz=True
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=32768
  actor_rollout_ref.actor.use_kl_loss=False
  actor_rollout_ref.actor.entropy_coeff=0

  # Sampling: the trainer divides its logits by this temperature; top_p below 1 is refused.
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.temperature=1.0
  actor_rollout_ref.rollout.top_p=1.0
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6

  # Validation as in the paper.
  actor_rollout_ref.rollout.val_kwargs.do_sample=True
  actor_rollout_ref.rollout.val_kwargs.temperature=0.6
  actor_rollout_ref.rollout.val_kwargs.top_p=0.95
  actor_rollout_ref.rollout.val_kwargs.n=8

  trainer.n_gpus_per_node=8
  trainer.nnodes=1
  trainer.total_epochs=5
  trainer.save_freq=20
  trainer.test_freq=20
  trainer.max_actor_ckpt_to_keep=2
  trainer.default_local_dir="$RUN"
  trainer.project_name=r2vpo
  trainer.experiment_name="${RUN##*/}"
  'trainer.logger=[console,tensorboard]'
)

exec "$PYTHON" -m r2vpo.llm.verl.main "${SETTINGS[@]}" "$@"
