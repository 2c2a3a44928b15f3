"""Generated tokens per second: our engines beside each other and beside transformers' own ``generate``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from r2vpo.errors import R2VPOError
from r2vpo.llm.bench.turns import Turns
from r2vpo.llm.bench.workload import Workload, make_model, make_rows, make_tokenizer
from r2vpo.processes import peak_mib

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Round = Callable[[int], int]
"""Generates the completions of one iteration with seeds from a number, and counts their tokens."""


def measure_engine(who: str, workload: Workload, turns: Turns) -> dict[str, float]:
    """Generate in this process.

    Args:
        who: ``generate`` for transformers' own, or a name that :func:`r2vpo.llm.engines.choice.make_engine` takes.
        workload: Its iterations are rounds of generation; one more, first, is not counted.
        turns: One for each round; reports ``tokens_per_second``.

    Returns:
        ``peak_mib`` of this process.

    Raises:
        R2VPOError: Not every completion has the length asked for.
        ConfigError: Unknown engine, or one that cannot run here.
    """
    import torch

    torch.set_num_threads(workload.threads)
    model, tokenizer = make_model(workload), make_tokenizer()
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in make_rows(workload)[: workload.prompts]]
    if who == "generate":
        generate = _with_generate(model, tokenizer, prompts, workload)
    else:
        generate = _with_engine(who, model, tokenizer, prompts, workload)
    generate(0)
    for number in range(1, workload.iterations + 1):
        turns.start()
        started = time.perf_counter()
        tokens = generate(number)
        turns.finish({"tokens_per_second": tokens / (time.perf_counter() - started)})
        if tokens != workload.completions * workload.new_tokens:
            raise R2VPOError(f"{who} generated {tokens} tokens, which is not what was asked for")
    return {"peak_mib": peak_mib()}


def _with_engine(
    who: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    workload: Workload,
) -> Round:
    from r2vpo.llm.engines.base import Sampling
    from r2vpo.llm.engines.choice import make_engine

    options: dict[str, Any] = {"max_num_seqs": workload.completions} if who == "vllm" else {}
    engine, _ = make_engine(who, model, tokenizer, **options)
    sampling = Sampling(workload.new_tokens)

    def generate(number: int) -> int:
        seeds = range(number * workload.completions, (number + 1) * workload.completions)
        return sum(len(c.tokens) for c in engine.generate(prompts, workload.group_size, sampling, seeds))

    return generate


def _with_generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    workload: Workload,
) -> Round:
    """The whole iteration as one batch, every prompt as often as it is answered; no log-probs."""
    import torch

    repeated = torch.tensor(prompts).repeat_interleave(workload.group_size, dim=0)
    options: dict[str, Any] = {
        "attention_mask": torch.ones_like(repeated),
        "do_sample": True,
        "top_k": 0,
        "max_new_tokens": workload.new_tokens,
        "pad_token_id": tokenizer.pad_token_id,
    }
    model.eval()

    def generate(number: int) -> int:
        torch.manual_seed(number)
        with torch.no_grad():
            output = model.generate(repeated, **options)
        return int(output[:, repeated.shape[1] :].numel())

    return generate
