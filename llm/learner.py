"""The learning half of an iteration: replay buffer in, changed token policy out."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from r2vpo.dual import DualController
from r2vpo.errors import TrainingDiverged
from r2vpo.llm.config import LLMConfig
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.experience import Sample, all_samples, collate, padding_fraction, token_micro_batches, unpack
from r2vpo.llm.models.token_policy import TokenPolicy
from r2vpo.objectives import make_objective
from r2vpo.replay import ReplayBuffer, proximal_weights
from r2vpo.update import PolicyUpdater, Scored

STOP_WINDOW = 4
"""Minibatches over which the distance that ends an update is measured: one holds few of the newest completions."""


class TokenLearner:
    """Policy, optimizer, dual variable and replay buffer, and the update that ties them together.

    Args:
        policy: On its device already.
        config: Settings of the run.
        generator: Source of the minibatch order, the same in every process.
        processes: Those that share each minibatch.
        pad: Token id for padding.
    """

    def __init__(
        self,
        policy: TokenPolicy,
        config: LLMConfig,
        generator: torch.Generator,
        processes: AcceleratedProcesses,
        pad: int,
    ) -> None:
        self.policy, self.config, self.generator, self.processes, self.pad = policy, config, generator, processes, pad
        self.buffer = ReplayBuffer(config.stored_iterations)
        self.passes = config.passes
        trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
        self.device = trained[0].device
        self.half_precision = half_precision(config, self.device)
        self.optimizer = torch.optim.AdamW(
            trained, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.updater = PolicyUpdater(
            make_objective(config.objective, **config.objective_kwargs),
            DualController(config.lam, config.delta, config.eta, config.dual),
            self.optimizer,
            self._score,
            config.max_grad_norm,
            processes=processes if processes.count > 1 else None,
        )

    def update(self, iteration: dict[str, Tensor] | None, learning_rate: float) -> dict[str, Any]:
        """Store an iteration and improve the policy on the buffer.

        Args:
            iteration: From :func:`r2vpo.llm.experience.pack`; None when nothing in it could be learned from.
            learning_rate: Of every gradient step in this update.

        Returns:
            Diagnostics of :meth:`r2vpo.update.PolicyUpdater.summary`, ``entropy`` in nats (of the first
            minibatch, before its step), ``padding_fraction`` and ``trained_tokens``.

        Raises:
            TrainingDiverged: Not one gradient step of the update was finite.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        new = 0
        if iteration is not None:
            new = len(iteration["ends"])
            self.buffer.add(iteration, new)
        self._entropies: list[Tensor] = []
        self._measure_entropy = True
        self._distances: deque[Tensor] = deque(maxlen=STOP_WINDOW)
        paddings, tokens = [], 0
        # Dropout would make the ratio differ from 1; transformers checkpoints gradients in training mode only.
        self.policy.train(self.config.gradient_checkpointing)
        for samples in self._minibatches(new, self._anchored(all_samples(self.buffer)) if new else []):
            micro_batches, padding = self._micro_batches(samples)
            count = sum(len(sample.tokens) for sample in samples)
            self.updater.step(micro_batches, count)
            self._measure_entropy = False
            paddings.append(padding)
            tokens += count
            if self._far_enough(len(micro_batches)):
                break
        summary = self.updater.summary()
        if paddings and not summary["gradient_steps"]:
            raise TrainingDiverged(f"all {summary['skipped_steps']} gradient steps of one update were non-finite")
        summary["entropy"] = self._mean_entropy()
        summary["padding_fraction"] = sum(paddings) / len(paddings) if paddings else 0.0
        summary["trained_tokens"] = tokens
        return summary

    @torch.no_grad()
    def log_probs(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Log-probs of the sampled tokens under the current policy, for each sample ``[T]``, on the CPU."""
        results: list[Tensor] = [torch.empty(0)] * len(samples)
        for index in token_micro_batches([len(sample) for sample in samples], self.config.tokens_per_micro_batch):
            chosen = [samples[i] for i in index]
            batch = self._collate(chosen)
            scored = self._autocast(self.policy.log_prob, batch)[batch["completion_mask"]].float().cpu()
            for i, log_probs in zip(index, scored.split([len(s.tokens) for s in chosen]), strict=True):
                results[i] = log_probs
        return results

    def rescore(self, iteration: dict[str, Tensor]) -> None:
        """Put the trainer's own log-probs in the place of the engine's, while the weights are those that sampled."""
        iteration["old_log_probs"] = torch.cat(self.log_probs(unpack(iteration, age=0)))

    def state_dict(self) -> dict[str, Any]:
        """Everything the next update depends on; of the weights, those that are trained."""
        return {
            "weights": {name: p.detach() for name, p in self.policy.named_parameters() if p.requires_grad},
            "optimizer": self.optimizer.state_dict()["state"],
            "dual": self.updater.dual.state_dict(),
            "buffer": self.buffer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state["weights"][name])
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        self.updater.dual.load_state_dict(state["dual"])
        self.buffer.load_state_dict(state["buffer"])

    def _minibatches(self, new: int, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Minibatches drawn uniformly from the samples of the buffer, as many as ``new`` ones pay for."""
        if not new:
            return
        size = min(self.config.minibatch_size, len(self.buffer))
        steps = round(self.passes * new / self.config.minibatch_size)
        for index in self.buffer.minibatches(size, max(1, steps), self.generator):
            yield [samples[i] for i in index.tolist()]

    def _anchored(self, samples: list[Sample]) -> list[Sample]:
        """Samples whose ratio is 1 where the anchor is; see :func:`r2vpo.replay.proximal_weights`."""
        if self.config.anchor == "behaviour":
            return samples
        scored = self.processes.gather([x.numpy() for x in self.log_probs(self.processes.share(samples))])
        log_probs = [torch.from_numpy(x) for x in scored]
        return [
            replace(sample, old_log_probs=now, weights=proximal_weights(now, sample.old_log_probs))
            for sample, now in zip(samples, log_probs, strict=True)
        ]

    def _far_enough(self, micro_batches: int) -> bool:
        """Whether the last few minibatches found the policy further from the newest completions than is allowed."""
        if self.config.stop_above is None:
            return False
        seen = self.updater.log.samples[-micro_batches:] if micro_batches else []
        fresh = [sampled.log_ratio[sampled.age == 0].expm1() for sampled in seen if sampled.age is not None]
        sums = [sum(float(values.square().sum()) for values in fresh), float(sum(map(len, fresh)))]
        self._distances.append(self.processes.sum(torch.tensor(sums, device=self.device)))
        squares, count = torch.stack([*self._distances]).sum(0).tolist()
        return len(self._distances) == STOP_WINDOW and squares > self.config.stop_above * count

    def _micro_batches(self, samples: list[Sample]) -> tuple[list[dict[str, Tensor]], float]:
        """This process's share of a minibatch, and the fraction of padding in all of it."""
        lengths = [len(sample) for sample in samples]
        share = -(-len(lengths) * max(lengths) // self.processes.count)
        cuts = token_micro_batches(lengths, min(self.config.tokens_per_micro_batch, share))
        weights = self._weights(samples)
        # They come sorted by length, so every n-th of them makes shares that cost about the same.
        mine = cuts[self.processes.rank :: self.processes.count]
        batches = [self._collate([samples[i] for i in cut], weights and [weights[i] for i in cut]) for cut in mine]
        return batches, padding_fraction(lengths, cuts)

    def _weights(self, samples: Sequence[Sample]) -> list[float] | None:
        """Weight of each sample's tokens: with seq-mean every sample counts alike, whatever its length."""
        if self.config.loss_aggregation == "token-mean":
            return None
        mean_length = sum(len(sample.tokens) for sample in samples) / len(samples)
        return [mean_length / len(sample.tokens) for sample in samples]

    def _collate(self, samples: Sequence[Sample], weights: Sequence[float] | None = None) -> dict[str, Tensor]:
        batch = collate(samples, self.pad, weights)
        return {name: values.to(self.device, non_blocking=True) for name, values in batch.items()}

    def _score(self, batch: dict[str, Tensor]) -> Scored:
        mask = batch["completion_mask"]
        if self._measure_entropy:
            log_prob, entropy = self._autocast(self.policy.log_prob_and_entropy, batch)
            self._entropies.append(entropy.detach()[mask])
        else:
            log_prob = self._autocast(self.policy.log_prob, batch)
        return Scored(
            log_prob, batch["old_log_prob"], batch["advantage"], mask, age=batch["age"], weight=batch.get("weight")
        )

    def _mean_entropy(self) -> float | None:
        values = self.processes.concatenate(torch.cat(self._entropies) if self._entropies else torch.zeros(0))
        return float(values.double().mean()) if len(values) else None

    def _autocast(self, function: Any, batch: dict[str, Tensor]) -> Any:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half_precision):
            return function(batch)


def half_precision(config: LLMConfig, device: torch.device) -> bool:
    """Whether forward and backward passes compute in bfloat16."""
    if config.mixed_precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return config.mixed_precision == "bf16"
