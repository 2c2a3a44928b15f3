"""Train the tiny arithmetic model through TRL with R²VPO, and write its accuracy over the steps to a JSON file.

    pip install "r2vpo[llm,trl]"
    python examples/trl_arithmetic.py                                          # two to four minutes on a laptop, no GPU
    accelerate launch --cpu --num_processes 2 examples/trl_arithmetic.py       # or on several GPUs, without --cpu

The model (0.5 million parameters) is made on the first run, in about a minute, and solves half of the problems before
this training. The settings are those chosen for r2vpo-off in docs/results/llm.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from r2vpo.envs.arithmetic import arithmetic_rows
from r2vpo.llm.models.tiny import ensure_tiny_model
from r2vpo.llm.models.warm_start import Examples, greedy_accuracy
from r2vpo.llm.rewards.exact import exact
from r2vpo.llm.trl import R2VPOConfig, R2VPOTrainer

PROMPTS, GROUP, STEPS_PER_GENERATION, UTD = 64, 8, 4, 2


class Accuracy(TrainerCallback):  # type: ignore[misc]
    """Greedy accuracy on 500 held-out problems, before the first step and every so many steps."""

    def __init__(self, tokenizer: Any, every: int, path: Path) -> None:
        self.problems = Examples.of(arithmetic_rows("test", 500), tokenizer)
        self.every, self.path, self.started = every, path, time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **objects: Any) -> None:
        """Measure the untrained model."""
        self.measure(state, model)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **objects: Any) -> None:
        """Measure now and then."""
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            self.measure(state, model)

    def measure(self, state: Any, model: Any) -> None:
        """Add a point to the file."""
        if not state.is_world_process_zero:
            return
        tokens, labels = (part.to(model.device) for part in (self.problems.tokens, self.problems.labels))
        accuracy = greedy_accuracy(model, Examples(tokens, labels))
        step = state.global_step
        points = json.loads(self.path.read_text()) if step and self.path.exists() else []
        point = {
            "step": step,
            "rollouts": step * PROMPTS * GROUP // (STEPS_PER_GENERATION * UTD),
            "accuracy_greedy": accuracy,
            "seconds": round(time.perf_counter() - self.started, 1),
        }
        # A resumed run continues the curve.
        points = [earlier for earlier in points if earlier["step"] < step] + [point]
        self.path.write_text(json.dumps(points, indent=2) + "\n")
        print(point, flush=True)


def main() -> None:
    """Train and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--total-rollouts", type=int, default=25_600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("runs/trl_arithmetic"))
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint in --output")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    cpu = not torch.cuda.is_available()
    directory = ensure_tiny_model()
    tokenizer = AutoTokenizer.from_pretrained(directory)
    steps = options.total_rollouts * UTD * STEPS_PER_GENERATION // (PROMPTS * GROUP)
    config = R2VPOConfig(
        output_dir=str(options.output),
        lam=0.5,
        utd=UTD,
        buffer_iterations=4,
        num_generations=GROUP,
        per_device_train_batch_size=PROMPTS * GROUP // STEPS_PER_GENERATION // int(os.environ.get("WORLD_SIZE", "1")),
        steps_per_generation=STEPS_PER_GENERATION,
        max_completion_length=16,
        learning_rate=5e-5,
        lr_scheduler_type="constant",
        max_steps=steps,
        seed=options.seed,
        use_cpu=cpu,
        bf16=not cpu,
        gradient_checkpointing=False,
        save_steps=100,
        save_total_limit=1,
        logging_steps=20,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = R2VPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32),
        reward_funcs=exact,
        args=config,
        train_dataset=Dataset.from_list(arithmetic_rows("train", seed=options.seed)),
        processing_class=tokenizer,
        callbacks=[Accuracy(tokenizer, every=40, path=options.output / "accuracy.json")],
    )
    trainer.train(resume_from_checkpoint=options.resume)


if __name__ == "__main__":
    main()
