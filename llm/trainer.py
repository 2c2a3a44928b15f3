"""`R2VPOTrainer` fine-tunes a causal language model with verifiable rewards; it reads like TRL's GRPOTrainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from r2vpo.errors import CheckpointError, ConfigError
from r2vpo.llm.assembly import (
    GivenObjects,
    RewardArgument,
    held_out_rows,
    load_policy_model,
    make_scorer,
    sort_arguments,
    start_engine,
    training_rows,
)
from r2vpo.llm.collection import Collector
from r2vpo.llm.config import LLMConfig, resolve_config
from r2vpo.llm.data.prompts import PromptStream, check_context, make_problems
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.learner import TokenLearner
from r2vpo.llm.models.token_policy import TokenPolicy
from r2vpo.llm.run import restore_snapshot
from r2vpo.llm.training import accuracy, finish_run, run_training
from r2vpo.runs.directory import CONFIG, RunDirectory

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Callback = Callable[["R2VPOTrainer", dict[str, Any]], bool | None]
"""Called after each iteration with its metrics; False ends the training."""


class R2VPOTrainer:
    """Algorithms 1 and 2 of arXiv 2601.03320, and every baseline of the core, on token policies.

    Args:
        model: Directory, hub name, a built-in name (see :attr:`LLMConfig.model`), or a loaded causal model.
        reward_funcs: Names or functions ``f(prompts, completions, **columns) -> list[float | None]``, as in TRL; one
            or several. None takes those of the config.
        config: Settings; ``settings`` are an alternative to it.
        train_dataset: Name or rows with a prompt column; None takes the config's.
        eval_dataset: Held-out rows or a name; None takes the config's.
        processing_class: Tokenizer; None loads the model's.
        run_dir: Where everything is written; None writes nothing.
        callbacks: Called after each iteration.
        settings: Fields of :class:`LLMConfig`; methods and presets fill in the rest.

    Raises:
        ConfigError: Any setting, dataset or reward that cannot work.
        RunDirectoryError: ``run_dir`` cannot be written, is in use, or holds a run.
    """

    def __init__(
        self,
        model: str | PreTrainedModel | None = None,
        reward_funcs: RewardArgument | None = None,
        config: LLMConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        run_dir: str | Path | None = None,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> None:
        given, implied = sort_arguments(model, reward_funcs, train_dataset, eval_dataset, processing_class)
        if config is None:
            config = resolve_config(implied | settings)
        elif settings:
            raise ConfigError("config", "and " + ", ".join(settings), "given alone, or left out and settings given")
        else:
            config = replace(config, **implied)
        self._assemble(config, given, run_dir, callbacks, new=True)

    @classmethod
    def resume(
        cls,
        run_dir: str | Path,
        model: PreTrainedModel | None = None,
        reward_funcs: RewardArgument | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> R2VPOTrainer:
        """Go on with a run from its newest checkpoint; what it was given as objects has to be given again.

        Raises:
            RunDirectoryError: There is no run, or another process uses it.
            CheckpointError: The checkpoint is damaged, or of another model.
        """
        given, _ = sort_arguments(model, reward_funcs, train_dataset, eval_dataset, processing_class)
        trainer = cls.__new__(cls)
        trainer._assemble(_stored_config(Path(run_dir)), given, run_dir, callbacks, new=False)
        return trainer

    def _assemble(
        self,
        config: LLMConfig,
        given: GivenObjects,
        run_dir: str | Path | None,
        callbacks: Sequence[Callback],
        new: bool,
    ) -> None:
        self.config, self.callbacks = config, tuple(callbacks)
        if config.torch_threads:
            torch.set_num_threads(config.torch_threads)
        self.processes = AcceleratedProcesses()
        rows, eval_rows = training_rows(config, given), held_out_rows(config, given)
        score = make_scorer(config, given)
        self.run: RunDirectory | None = None
        if run_dir is not None and self.processes.is_main:
            self.run = RunDirectory(run_dir, {"kind": "llm", **asdict(config)} if new else None)
        try:
            self.model, self.tokenizer = load_policy_model(config, given, self.processes)
            check_context(self.model, config)
            problems = make_problems(rows, self.tokenizer, config)
            self.eval_problems = make_problems(eval_rows[: config.eval_problems], self.tokenizer, config)
            policy = TokenPolicy(self.model, config.temperature)
            generator = torch.Generator().manual_seed(config.seed)
            pad = self.tokenizer.pad_token_id
            self.learner = TokenLearner(policy, config, generator, self.processes, pad)
            self.engine, self.engine_name = start_engine(config, self.model, self.tokenizer)
            stream = PromptStream(problems, config.seed)
            self.collector = Collector(self.engine, stream, score, self.decode, config, self.processes)
            self._reset_counters()
            if not new:
                self._restore(Path(run_dir or "."))
        except BaseException:
            self._give_up(new)
            raise

    def train(self, progress_bar: bool = True) -> dict[str, Any]:
        """Train to ``total_rollouts``, evaluate, and write the results.

        Ctrl-C finishes the iteration, saves and raises KeyboardInterrupt.

        Returns:
            The summary, see :func:`r2vpo.llm.training.finish_run`.

        Raises:
            RolloutError: The engine failed, or its log-probs are not finite.
            RewardError: A reward function returned something unusable.
            TrainingDiverged: A whole update was non-finite.
            OutOfMemory: With advice on what to lower.
        """
        if self.first_accuracy is None and self.eval_problems and self.config.eval_every:
            self.first_accuracy = self.last_accuracy = accuracy(self.collector, self.eval_problems)
        run_training(self, progress_bar)
        return finish_run(self)

    def evaluate(self) -> dict[str, float | None]:
        """Greedy accuracy on the held-out problems."""
        return {"accuracy_greedy": accuracy(self.collector, self.eval_problems)}

    def save_model(self, path: str | Path) -> None:
        """Write weights, config and tokenizer as ``from_pretrained`` reads them; adapters are merged into the weights.

        Only the main process writes.
        """
        if not self.processes.is_main:
            return
        from r2vpo.llm.models.loading import save_pretrained

        save_pretrained(self.model, self.tokenizer, Path(path))

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of a completion, without special tokens."""
        text: str = self.tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text

    def learning_rate(self) -> float:
        """Of the next update."""
        rate = self.config.learning_rate
        if self.iterations < self.config.warmup_iterations:
            rate *= (self.iterations + 1) / (self.config.warmup_iterations + 1)
        if self.config.lr_schedule == "linear":
            rate *= max(0.0, 1.0 - self.rollouts / self.config.total_rollouts)
        return rate

    def close(self) -> None:
        """Free the engine and give the run directory back."""
        self.engine.close()
        if self.run is not None:
            self.run.close()

    def _reset_counters(self) -> None:
        self.rollouts = 0
        self.iterations = 0
        self.train_seconds = 0.0
        self.uninformative_iterations = 0
        self.engine_mismatch: float | None = None
        self.first_accuracy: float | None = None
        self.last_accuracy: float | None = None

    def _restore(self, run_dir: Path) -> None:
        from r2vpo.runs.checkpoint import load_tree
        from r2vpo.runs.directory import CHECKPOINT

        path = run_dir / CHECKPOINT
        if path.exists():
            restore_snapshot(self, load_tree(path))
            self.engine.sync_weights(self.model, self.iterations)
        if self.run is not None:
            self.run.drop_metrics_after(self.rollouts)

    def _give_up(self, new: bool) -> None:
        """Leave no half-made run behind, so that the same folder can be used for the next attempt."""
        if self.run is not None:
            if new:
                (self.run.path / CONFIG).unlink(missing_ok=True)
            self.run.close()


def _stored_config(run_dir: Path) -> LLMConfig:
    import json

    from r2vpo.errors import RunDirectoryError

    if not (run_dir / CONFIG).is_file():
        raise RunDirectoryError(f"run_dir={str(run_dir)!r} holds no run: there is no {CONFIG} in it")
    stored = json.loads((run_dir / CONFIG).read_text())
    if stored.pop("kind", None) != "llm":
        raise CheckpointError(f"{run_dir} holds a run of another kind; resume it with its own command")
    tuples = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
    return LLMConfig(**{**stored, **tuples})
