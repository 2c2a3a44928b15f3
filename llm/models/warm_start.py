"""Supervised training of a fresh model until it solves about half of a validation set."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from r2vpo.errors import ConfigError, TrainingDiverged
from r2vpo.runs.progress import LiveLine

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

IGNORED = -100
"""Label of a token that is not learned: prompt and padding."""


@dataclass(frozen=True)
class WarmStartSettings:
    """How the warm start learns and when it stops."""

    target_accuracy: float = 0.5
    """Greedy accuracy on the validation problems that ends it."""
    learning_rate: float = 1e-3
    """Of AdamW, after a linear rise over the first 50 steps."""
    batch_size: int = 256
    """Problems per step."""
    averaging: float = 0.98
    """Decay of the moving average of the weights. The average is what is evaluated and kept: its accuracy rises
    smoothly, where that of the raw weights jumps by tens of points from one evaluation to the next."""
    eval_every: int = 5
    """Steps between evaluations."""
    max_steps: int = 3000
    """Steps after which it gives up."""


@dataclass(frozen=True)
class WarmStartResult:
    """How the warm start ended."""

    steps: int
    accuracy: float
    """On the validation problems."""


@dataclass(frozen=True)
class Examples:
    """Problems with their answers as tokens, padded on the right; ``tokens`` and ``labels`` are ``[N, T]``."""

    tokens: Tensor
    labels: Tensor

    @classmethod
    def of(cls, rows: Sequence[dict[str, str]], tokenizer: PreTrainedTokenizerBase) -> Examples:
        """Labels cover the answer, or what a row has as ``worked`` in its place, and the end of the text."""
        prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
        answers = tokenizer([row.get("worked", row["answer"]) for row in rows], add_special_tokens=False)["input_ids"]
        width = max(len(p) + len(a) for p, a in zip(prompts, answers, strict=True)) + 1
        tokens = torch.full((len(rows), width), tokenizer.pad_token_id)
        labels = torch.full((len(rows), width), IGNORED)
        for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            text = torch.tensor([*prompt, *answer, tokenizer.eos_token_id])
            tokens[i, : len(text)] = text
            labels[i, len(prompt) : len(text)] = text[len(prompt) :]
        return cls(tokens, labels)


def warm_start(
    model: PreTrainedModel,
    train: Examples,
    validation: Examples,
    settings: WarmStartSettings,
    seed: int,
    quiet: bool = False,
) -> WarmStartResult:
    """Train ``model`` in place until it reaches the target accuracy.

    Args:
        model: Fresh, on the CPU, in float32.
        train: Examples to learn, drawn with replacement.
        validation: Examples that decide when to stop.
        settings: See :class:`WarmStartSettings`.
        seed: Of the order of the examples.
        quiet: Show no progress.

    Raises:
        ConfigError: The target was not reached within ``max_steps``.
        TrainingDiverged: The loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    average = copy.deepcopy(model).eval()
    accuracy = 0.0
    model.train()
    with LiveLine(settings.max_steps, "warm-start steps", quiet=quiet) as line:
        for step in range(1, settings.max_steps + 1):
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * min(1.0, step / 50)
            batch = torch.randint(len(train.tokens), (settings.batch_size,), generator=generator)
            loss = _learn(model, optimizer, train.tokens[batch], train.labels[batch])
            _follow(average, model, min(settings.averaging, step / (step + 9)))
            if step % settings.eval_every == 0:
                accuracy = greedy_accuracy(average, validation)
                line.update(step, accuracy=accuracy, loss=loss)
                if accuracy >= settings.target_accuracy:
                    break
        else:
            allowed = f"reachable within max_steps={settings.max_steps}: the accuracy is {accuracy:.3f}"
            raise ConfigError("target_accuracy", settings.target_accuracy, allowed)
    model.load_state_dict(average.state_dict())
    model.eval()
    return WarmStartResult(step, accuracy)


@torch.no_grad()
def greedy_accuracy(model: PreTrainedModel, examples: Examples, batch_size: int = 1024) -> float:
    """Fraction of problems whose greedy answer is the one in the labels.

    It is exactly when every token of the right answer, its end included, is the most likely one
    after those before it: one forward pass tells, without generating.
    """
    right = 0
    for tokens, labels in zip(examples.tokens.split(batch_size), examples.labels.split(batch_size), strict=True):
        predicted = model(input_ids=tokens).logits[:, :-1].argmax(-1)
        wanted = labels[:, 1:]
        right += int(((predicted == wanted) | (wanted == IGNORED)).all(1).sum())
    return right / len(examples.tokens)


def _learn(model: PreTrainedModel, optimizer: torch.optim.Optimizer, tokens: Tensor, labels: Tensor) -> float:
    logits = model(input_ids=tokens).logits[:, :-1]
    loss = functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
    if not torch.isfinite(loss):
        raise TrainingDiverged("the loss of the warm start is not finite; lower its learning rate")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1.0 - decay)
