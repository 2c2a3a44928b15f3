"""Small Qwen2 models that are made here in minutes, already right about half of the time.

Each has its own tokenizer (one token a character) and is trained from random weights, supervised, on a few of the
training problems of its task until it solves enough of the validation problems. The held-out test problems are never
seen. The task of the default model is :mod:`r2vpo.envs.arithmetic`; :mod:`r2vpo.envs.expressions` takes several steps;
:mod:`r2vpo.llm.models.tiny_reasoning` has others.
"""

from __future__ import annotations

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from r2vpo.envs.arithmetic import ArithmeticTask
from r2vpo.envs.expressions import ExpressionTask
from r2vpo.errors import ConfigError
from r2vpo.llm.data.files import Row
from r2vpo.runs.cache import made_once
from r2vpo.validation import Count, Positive, check_fields

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from r2vpo.llm.models.warm_start import WarmStartResult

FORMAT_VERSION = 1
"""Part of the cache key. Raise it when a change to the code changes the model that the same settings make."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TinyModelSettings(ABC):
    """Everything that defines a model but its task, which subclasses add."""

    family: ClassVar[str]
    """Begins the name in the cache."""
    batch_size: ClassVar[int] = 256
    """Examples in a step of the warm start."""
    eval_every: ClassVar[int] = 5
    """Steps between its evaluations."""

    seed: int = 0
    """Of the first weights and of the order of the examples."""
    hidden_size: Count = 128
    """Width of the residual stream."""
    num_layers: Count = 2
    """Transformer blocks."""
    num_heads: Count = 4
    """Attention heads; queries, keys and values have as many."""
    intermediate_size: Count = 512
    """Width inside the feed-forward blocks."""
    max_length: Count = 512
    """Longest text, in tokens."""
    target_accuracy: Positive = 0.5
    """Greedy accuracy on the validation problems at which the warm start stops."""
    examples: Count = 300
    """Training problems whose answers the warm start may learn from. So few that the model is sure of its answers,
    right or wrong, and stays near half right: one that is stopped early on all the problems instead is unsure of
    everything, samples the right answer half as often, and loses ground before reinforcement improves it."""
    learning_rate: Positive = 1e-3
    """Of the warm start."""
    max_steps: Count = 3000
    """Steps after which the warm start gives up."""

    def __post_init__(self) -> None:
        """Check every field; raises ConfigError."""
        check_fields(self, TinyModelSettings)
        if self.hidden_size % (2 * self.num_heads):
            raise ConfigError("hidden_size", self.hidden_size, f"a multiple of 2 * num_heads = {2 * self.num_heads}")
        if self.target_accuracy >= 1.0:
            raise ConfigError("target_accuracy", self.target_accuracy, "above 0 and below 1")

    @property
    def key(self) -> str:
        """Name of the model in the cache: the same for the same settings, and for no others."""
        text = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, sort_keys=True)
        return f"{self.family}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    @abstractmethod
    def problems(self) -> tuple[list[Row], list[Row]]:
        """Problems to learn from, at most ``examples``, and problems to validate on.

        Raises:
            ConfigError: The task has none.
        """

    @abstractmethod
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """A tokenizer that can write the task; ids of its special tokens are those of the tiny tokenizer."""


@dataclass(frozen=True)
class TinySettings(TinyModelSettings):
    """The model of the arithmetic task."""

    family: ClassVar[str] = "tiny-arithmetic"

    operands: int = ArithmeticTask.operands
    """Numbers in a sum."""
    highest: int = ArithmeticTask.highest
    """Largest of them."""

    def problems(self) -> tuple[list[Row], list[Row]]:
        """The first training problems in the order of the seed, and all validation problems."""
        task = ArithmeticTask(self.operands, self.highest)
        train, validation = task.rows("train", self.examples, self.seed), task.rows("validation")
        if not train or not validation:
            raise ConfigError("operands", self.operands, f"so large that {task} has problems to validate on")
        return train, validation

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Digits and signs."""
        from r2vpo.llm.models.tiny_tokenizer import make_tokenizer

        return make_tokenizer(self.max_length)


@dataclass(frozen=True)
class ExpressionSettings(TinyModelSettings):
    """The model of expressions that are worked out a step at a time; it learns from the steps."""

    family: ClassVar[str] = "tiny-expressions"
    batch_size: ClassVar[int] = 64
    eval_every: ClassVar[int] = 20

    operands: int = ExpressionTask.operands
    """Numbers in an expression."""
    target_accuracy: float = 0.35
    """Greedy accuracy on the validation problems at which the warm start stops."""
    examples: int = 3000
    """Worked problems it may learn from."""
    learning_rate: float = 2e-3
    """Of the warm start."""

    def problems(self) -> tuple[list[Row], list[Row]]:
        """The first training problems in the order of the seed, and 200 validation problems."""
        task = ExpressionTask(self.operands)
        return task.rows("train", self.examples, self.seed), task.rows("validation", 200)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Digits, signs and brackets."""
        from r2vpo.llm.models.tiny_tokenizer import make_tokenizer

        return make_tokenizer(self.max_length)


def ensure_tiny_model(quiet: bool = False, **settings: Any) -> Path:
    """Directory of the arithmetic model in Hugging Face's format; see :func:`ensure_made`.

    Args:
        quiet: Show no progress.
        settings: Fields of :class:`TinySettings`.

    Raises:
        ConfigError: Unknown setting, a value outside its range, or a target accuracy that was not reached.
    """
    known = [f.name for f in fields(TinySettings)]
    for name, value in settings.items():
        if name not in known:
            raise ConfigError(name, value, f"left out; the settings of the tiny model are {', '.join(known)}")
    return ensure_made(TinySettings(**settings), quiet)


def ensure_made(wanted: TinyModelSettings, quiet: bool = False) -> Path:
    """Directory of the model that the settings define, in Hugging Face's format; made first where need be.

    Several processes may ask at once: one makes the model and the others wait for it.

    Raises:
        ConfigError: The task has no problems, or the target accuracy was not reached.
    """
    return made_once(wanted.key, lambda directory: _make_in(directory, wanted, quiet), _complete)


def build_model(settings: TinyModelSettings) -> PreTrainedModel:
    """Random weights that depend on the settings alone; the caller's random state is left as it was."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from r2vpo.llm.models.tiny_tokenizer import BOS_ID, EOS_ID, PAD_ID

    config = Qwen2Config(
        vocab_size=len(settings.tokenizer()),
        hidden_size=settings.hidden_size,
        num_hidden_layers=settings.num_layers,
        num_attention_heads=settings.num_heads,
        num_key_value_heads=settings.num_heads,
        intermediate_size=settings.intermediate_size,
        max_position_embeddings=settings.max_length,
        tie_word_embeddings=True,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=PAD_ID,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Qwen2ForCausalLM(config)


def train_tiny(model: PreTrainedModel, settings: TinyModelSettings, quiet: bool = False) -> WarmStartResult:
    """Warm-start ``model`` in place on some training problems; raises as :func:`warm_start`."""
    from r2vpo.llm.models.warm_start import Examples, WarmStartSettings, warm_start

    tokenizer = settings.tokenizer()
    train, validation = settings.problems()
    return warm_start(
        model,
        Examples.of(train, tokenizer),
        Examples.of(validation, tokenizer),
        WarmStartSettings(
            target_accuracy=settings.target_accuracy,
            learning_rate=settings.learning_rate,
            batch_size=settings.batch_size,
            eval_every=settings.eval_every,
            max_steps=settings.max_steps,
        ),
        seed=settings.seed,
        quiet=quiet,
    )


def _make_in(directory: Path, settings: TinyModelSettings, quiet: bool) -> None:
    model = build_model(settings)
    result = train_tiny(model, settings, quiet)
    model.save_pretrained(directory)
    settings.tokenizer().save_pretrained(directory)
    about = {"settings": asdict(settings), "steps": result.steps, "validation_accuracy": result.accuracy}
    (directory / "warm_start.json").write_text(json.dumps(about, indent=2) + "\n")
    if not quiet:
        made = "made %s: %d steps, validation accuracy %.3f"
        _log.info(made, settings.key, result.steps, result.accuracy)


def _complete(directory: Path) -> bool:
    return all((directory / name).is_file() for name in ("config.json", "model.safetensors", "tokenizer.json"))
