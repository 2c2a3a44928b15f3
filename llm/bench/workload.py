"""What the language-model benchmarks work on: a random Qwen2 of about a million parameters and sums to answer.

Everybody does the same work: the model gives the end-of-sequence token a probability of exactly 0, so no completion is
shorter than the longest allowed one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from r2vpo.envs.arithmetic import ArithmeticTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MIB = 2**20


@dataclass(frozen=True)
class Workload:
    """One training set-up, the same for every trainer."""

    hidden_size: int = 192
    """Width of the residual stream."""
    num_layers: int = 3
    """Transformer blocks, with a feed-forward width of twice ``hidden_size``."""
    num_heads: int = 6
    """Attention heads; vLLM's CPU build needs them at least 32 wide."""
    prompts: int = 64
    """Prompts per iteration."""
    group_size: int = 8
    """Completions per prompt."""
    new_tokens: int = 8
    """Tokens of every completion."""
    steps: int = 4
    """Optimizer steps per iteration, each on an equal share of the completions."""
    iterations: int = 4
    """Iterations that are measured; one more, first, is not."""
    learning_rate: float = 1e-5
    """Of AdamW, constant."""
    threads: int = 1
    """Threads of torch."""

    @property
    def completions(self) -> int:
        """Per iteration."""
        return self.prompts * self.group_size

    @property
    def generation(self) -> str:
        """What is generated and by what model, for the name of a case."""
        return (
            f"{self.prompts} prompts x {self.group_size} completions of {self.new_tokens} tokens, Qwen2 with hidden "
            f"size {self.hidden_size} and {self.num_layers} layers, float32, {self.threads} torch thread"
            f"{'s' if self.threads > 1 else ''}"
        )

    @property
    def training(self) -> str:
        """What is trained, for the name of a case."""
        return f"{self.generation}, {self.steps} optimizer step{'s' if self.steps > 1 else ''} an iteration"


def make_model(workload: Workload) -> PreTrainedModel:
    """Random weights in float32, the same at every call; see :func:`never_end`."""
    from r2vpo.llm.models.tiny import TinySettings, build_model
    from r2vpo.llm.models.tiny_tokenizer import EOS_ID

    settings = TinySettings(
        hidden_size=workload.hidden_size,
        num_layers=workload.num_layers,
        num_heads=workload.num_heads,
        intermediate_size=2 * workload.hidden_size,
    )
    model = build_model(settings)
    never_end(model, EOS_ID)
    return model


def never_end(model: PreTrainedModel, eos_token_id: int) -> None:
    """Change a random model so that the probability of a token underflows to 0, and stays there for some small steps.

    One coordinate of the residual stream is 1 for every other token, which is large beside random weights, and the
    row of this one in the output layer points the other way. Others get that coordinate's logit all alike.
    """
    import torch

    heads = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    with torch.no_grad():
        for weight in heads:
            weight[:, 0] = 1.0
            weight[eos_token_id] = 0.0
            weight[eos_token_id, 0] = -100.0


def make_tokenizer() -> PreTrainedTokenizerBase:
    """One token a character."""
    from r2vpo.llm.models import tiny_tokenizer

    return tiny_tokenizer.make_tokenizer()


def make_rows(workload: Workload) -> list[dict[str, str]]:
    """Problems for one iteration after another, each used once."""
    return ArithmeticTask().rows("train", limit=workload.prompts * (workload.iterations + 1))


def share_of_digits(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float | None]:
    """Reward between 0 and 1 that differs within almost every group of a random model."""
    return [sum(character.isdigit() for character in completion) / 32 for completion in completions]
