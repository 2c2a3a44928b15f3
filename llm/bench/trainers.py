"""Training speed beside TRL's GRPOTrainer: the same model, prompts, tokens, objective and optimizer steps.

Both train with PPO's clipped surrogate averaged over the tokens (GRPO here, ``loss_type="dapo"`` with one clip range in
TRL), AdamW, the gradient norm clipped at 1, no reference model, in float32. Neither evaluates, saves or logs to disk.
What each does beyond that is its own way of doing it: TRL generates with transformers' ``generate`` and scores the
completions again for their old log-probs; here they come from the engine.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from r2vpo.errors import ConfigError, R2VPOError
from r2vpo.llm.bench.turns import Turns
from r2vpo.llm.bench.workload import Workload, make_model, make_rows, make_tokenizer, share_of_digits
from r2vpo.processes import peak_mib

PHASES = ("generate", "verify", "train", "sync")


def measure_trainer(who: str, workload: Workload, turns: Turns) -> dict[str, Any]:
    """Train in this process.

    Args:
        who: ``ours``, ``ours-vllm`` (with that engine) or ``trl``.
        workload: What to train on.
        turns: One for each iteration but the first; reports ``samples_per_second`` and ``seconds`` by phase.

    Returns:
        ``peak_mib`` of this process, and ``start_mib`` of it with everything imported and built.

    Raises:
        R2VPOError: The trainer did not do the work that was asked for.
    """
    import torch

    torch.set_num_threads(workload.threads)
    if who not in ("ours", "ours-vllm", "trl"):
        raise ConfigError("who", who, "'ours', 'ours-vllm' or 'trl'")
    watch = _Watch(who, workload, turns)
    if who == "trl":
        start = _train_trl(workload, watch)
    else:
        start = _train_ours(workload, watch, "hf" if who == "ours" else "vllm")
    if watch.done != workload.iterations + 1:
        raise R2VPOError(f"{who} trained {watch.done} iterations, and {workload.iterations + 1} were asked for")
    return {"peak_mib": peak_mib(), "start_mib": start}


class _Watch:
    """Makes a turn of every iteration after the first."""

    def __init__(self, who: str, workload: Workload, turns: Turns) -> None:
        self.who, self.workload, self.turns = who, workload, turns
        self.done = 0
        self.started = 0.0

    def iteration_ended(self, tokens: int, seconds: dict[str, float]) -> None:
        """Take note of an iteration; training is what its seconds do not name."""
        elapsed = time.perf_counter() - self.started
        expected = self.workload.completions * self.workload.new_tokens
        if tokens != expected:
            raise R2VPOError(f"{self.who} generated {tokens} tokens in an iteration, and not {expected}")
        if self.done:
            phases = {"train": elapsed - sum(seconds.values()), **seconds}
            speed = self.workload.completions / elapsed
            self.turns.finish({"samples_per_second": speed, "seconds": {p: phases.get(p, 0.0) for p in PHASES}})
        self.done += 1
        if self.done <= self.workload.iterations:
            self.turns.start()
        self.started = time.perf_counter()


def _train_ours(workload: Workload, watch: _Watch, engine: str) -> float:
    """Returns the peak memory before the training, MiB, as :func:`_train_trl` does."""
    from r2vpo.llm.trainer import R2VPOTrainer

    def record(trainer: R2VPOTrainer, metrics: dict[str, Any]) -> None:
        phases = {phase: metrics[f"{phase}_seconds"] for phase in ("generate", "verify", "sync")}
        watch.iteration_ended(metrics["generated_tokens"], phases)

    trainer = R2VPOTrainer(
        make_model(workload),
        share_of_digits,
        train_dataset=make_rows(workload),
        eval_dataset=make_rows(workload)[:1],
        processing_class=make_tokenizer(),
        callbacks=[record],
        method="grpo",
        prompts_per_iteration=workload.prompts,
        group_size=workload.group_size,
        minibatch_size=workload.completions // workload.steps,
        total_rollouts=workload.completions * (workload.iterations + 1),
        learning_rate=workload.learning_rate,
        max_prompt_tokens=64,
        max_completion_tokens=workload.new_tokens,
        engine=engine,
        torch_threads=workload.threads,
        eval_every=0,
        eval_samples=0,
    )
    start = peak_mib()
    trainer.train(progress_bar=False)
    trainer.close()
    return start


def _train_trl(workload: Workload, watch: _Watch) -> float:
    import trl
    from datasets import Dataset
    from transformers import TrainerCallback

    tokens, seconds = 0, {"generate": 0.0, "verify": 0.0}

    class Record(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **objects: Any) -> None:
            nonlocal tokens
            if state.global_step % workload.steps == 0:
                watch.iteration_ended(tokens, seconds)
                tokens = 0

    class Timed(trl.GRPOTrainer):
        def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
            nonlocal tokens
            started = time.perf_counter()
            completions, log_probs = super()._generate_single_turn(*args, **options)
            seconds["generate"] = time.perf_counter() - started
            tokens += sum(map(len, completions))
            return completions, log_probs

        def _calculate_rewards(self, *args: Any, **options: Any) -> Any:
            started = time.perf_counter()
            rewards = super()._calculate_rewards(*args, **options)
            seconds["verify"] = time.perf_counter() - started
            return rewards

    with tempfile.TemporaryDirectory() as directory:
        trainer = Timed(
            model=make_model(workload),
            reward_funcs=share_of_digits,
            args=trl_settings(workload, directory),
            train_dataset=Dataset.from_list(make_rows(workload)),
            processing_class=make_tokenizer(),
            callbacks=[Record()],
        )
        start = peak_mib()
        trainer.train()
    return start


def trl_settings(workload: Workload, directory: str) -> Any:
    """TRL's settings for the same work; what is not named here is TRL's own default."""
    import trl

    return trl.GRPOConfig(
        output_dir=directory,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        beta=0.0,
        loss_type="dapo",
        epsilon=0.2,
        temperature=1.0,
        learning_rate=workload.learning_rate,
        lr_scheduler_type="constant",
        num_generations=workload.group_size,
        per_device_train_batch_size=workload.completions // workload.steps,
        steps_per_generation=workload.steps,
        gradient_accumulation_steps=1,
        max_completion_length=workload.new_tokens,
        max_steps=workload.steps * (workload.iterations + 1),
    )
