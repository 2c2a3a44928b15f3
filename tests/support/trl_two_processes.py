"""Trainers on a tiny model, and a script that trains them in the processes of ``torchrun`` and writes what they did."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from tiny_models import tiny_model, tiny_tokenizer
from transformers import TrainerCallback

from r2vpo.llm.trl import R2VPOConfig, R2VPOTrainer

PROMPTS = ["1+1=", "2*(3+4)=", "9-", "what is 17?", "abc", "5/5=", "0=", "(8)="]
NOISE = 0.4


def share_of_digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / max(1, len(text)) for text in completions]


def settings(directory, **given):
    defaults = {
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 8,
        "max_grad_norm": 1e9,
        "learning_rate": 1e-3,
        "lam": 0.5,
    }
    return R2VPOConfig(output_dir=str(directory), **{**defaults, **given})


class NoisyTrainer(R2VPOTrainer):
    """Stores log-probs of a policy some way off, so that the ratio is not 1, and keeps what each step saw."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.seen, self.gradients = [], []
        self.add_callback(KeepGradients(self.gradients))

    def _generate_and_score_completions(self, inputs):
        batch = super()._generate_and_score_completions(inputs)
        batch["old_per_token_logps"] = batch["old_per_token_logps"] + NOISE * torch.sin(batch["completion_ids"].float())
        return batch

    def _compute_loss(self, model, inputs):
        if self.model.training:
            self.seen.append(inputs)
        return super()._compute_loss(model, inputs)


class KeepGradients(TrainerCallback):
    def __init__(self, gradients):
        self.gradients = gradients

    def on_pre_optimizer_step(self, args, state, control, model=None, **objects):
        self.gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})


def make_trainer(directory, kind=R2VPOTrainer, model=None, reward=share_of_digits, repeats=4, **given):
    return kind(
        model=tiny_model().double() if model is None else model,
        reward_funcs=reward,
        args=settings(directory, **given),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS] * repeats),
        processing_class=tiny_tokenizer(),
    )


def logged(trainer, name):
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def main(directory):
    moving = {"dual": "paper", "delta": 0.01, "eta": 0.5, "per_device_train_batch_size": 4, "max_steps": 6}
    moving |= {"gradient_accumulation_steps": 2, "steps_per_generation": 2, "save_strategy": "steps", "save_steps": 3}
    whole = make_trainer(directory, NoisyTrainer, **moving)
    whole.train()
    rank = whole.accelerator.process_index
    resumed = make_trainer(directory, NoisyTrainer, **moving)
    resumed.train(resume_from_checkpoint=str(directory / "checkpoint-3"))
    ranking = make_trainer(directory, NoisyTrainer, **{**moving, "max_steps": 1, "objective": "m2po"})
    ranking.train()
    proximal = make_trainer(directory, NoisyTrainer, **{**moving, "max_steps": 3, "anchor": "proximal"})
    proximal.train()
    same = all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    summary = {
        "processes": whole.accelerator.num_processes,
        "lam": logged(whole, "lam"),
        "ratio_variance": logged(whole, "ratio_variance"),
        "proximal_variance": logged(proximal, "ratio_variance"),
        "resumed_lam": logged(resumed, "lam")[3:],
        "same_weights": same,
        "same_buffer": all(
            torch.equal(a[name], b[name])
            for a, b in zip(whole.replay.iterations, resumed.replay.iterations, strict=True)
            for name in a
        ),
        "sizes": whole.replay.sizes,
        "weights": sum(float(p.detach().abs().sum()) for p in whole.model.parameters()),
    }
    (directory / f"summary_{rank}.json").write_text(json.dumps(summary))
    trainers = {"r2vpo": whole, "m2po": ranking, "proximal": proximal}
    steps = {name: {"seen": t.seen[:2], "gradient": t.gradients[0]} for name, t in trainers.items()}
    torch.save(steps, directory / f"step_{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
