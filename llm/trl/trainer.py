"""R²VPO inside TRL: :class:`trl.GRPOTrainer` with this library's objective, dual variable and replay.

Everything else is TRL's: generation (transformers or vLLM), reward functions, tools, callbacks, PEFT, accelerate.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import get_config_model_id

from r2vpo.diagnostics import ratio_diagnostics
from r2vpo.dual import DualController
from r2vpo.errors import ConfigError, TrainingDiverged
from r2vpo.llm.distributed import AcceleratedProcesses
from r2vpo.llm.trl.config import R2VPOConfig, check_config
from r2vpo.llm.trl.replay import anchored, collate, to_iteration, token_counts, unpadded
from r2vpo.objectives import make_objective
from r2vpo.replay import ReplayBuffer
from r2vpo.runs.checkpoint import load_tree, save_tree
from r2vpo.update import Scored, minibatch_loss

__all__ = ["R2VPOConfig", "R2VPOTrainer"]

_DIAGNOSTICS = ("ratio_variance", "ratio_mean", "ess", "sign_flip", "clip_fraction", "kl")

_LAYOUT = (
    *("buffer_iterations", "utd", "per_device_train_batch_size", "steps_per_generation"),
    *("gradient_accumulation_steps", "world_size"),
)
"""Settings that a checkpoint's buffer and its minibatches already drawn depend on."""


class R2VPOTrainer(GRPOTrainer):
    """:class:`trl.GRPOTrainer` that trains with R²VPO (arXiv 2601.03320, Algorithms 1 and 2).

    Takes the arguments of :class:`trl.GRPOTrainer`; ``args`` is an :class:`R2VPOConfig`. Each process keeps its share
    of the last ``buffer_iterations`` generation batches and draws from it uniformly; lambda is the same everywhere.

    Raises:
        ConfigError: ``args`` of another class, or changed to something that is not allowed; a dataset with images.
    """

    _tag_names: ClassVar[list[str]] = ["trl", "r2vpo"]
    _name = "R2VPO"
    _paper: ClassVar[dict[str, str]] = {
        "title": "Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning",
        "id": "2601.03320",
        "citation": "@article{luo2026ratiovariance,\n"
        "    title  = {{Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning}},\n"
        "    author = {Yu Luo and Shuo Han and Yihan Hu and Dong Li and Jianye Hao},\n"
        "    year   = 2026,\n"
        "    eprint = {arXiv:2601.03320},\n"
        "}",
    }

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: R2VPOConfig | None = None,
        train_dataset: Any = None,
        *rest: Any,
        **options: Any,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else get_config_model_id(model.config)
            args = R2VPOConfig(f"{Path(name).name}-R2VPO")
        if not isinstance(args, R2VPOConfig):
            raise ConfigError("args", type(args).__name__, "an R2VPOConfig")
        check_config(args)
        for column in {"image", "images"} & set(getattr(train_dataset, "column_names", None) or ()):
            raise ConfigError("train_dataset", column, "text only: images are not replayed")
        self.objective = make_objective(args.objective, **args.objective_kwargs)  # type: ignore[arg-type]
        self.dual = DualController(args.lam, args.delta, args.eta, args.dual)
        self.replay = ReplayBuffer(args.buffer_iterations)
        self._draws: deque[tuple[Tensor, int]] = deque()
        self._proximal: dict[int, Tensor] = {}
        self._window: list[dict[str, Tensor]] = []
        self._measured: dict[str, Any] = {}
        super().__init__(model, reward_funcs, args, train_dataset, *rest, **options)
        self._check_server()

    def _check_server(self) -> None:
        args = self.args
        engine = args.use_vllm and args.vllm_mode == "server" and args.behaviour_log_probs == "engine"
        if engine and args.temperature != 1.0 and self.accelerator.is_main_process:
            mode = self.vllm_generation.vllm_client.get_server_info()["model_config"]["logprobs_mode"]
            if mode != "processed_logprobs":
                remedy = f"'trainer' with a server in --logprobs-mode {mode}, or start it with processed_logprobs"
                raise ConfigError("behaviour_log_probs", "engine", remedy)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        """Adds the behaviour log-probs where TRL leaves them out, and prefers those of the engine."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if "old_per_token_logps" not in batch:
            args = self.args
            size = args.per_device_train_batch_size if self.model.training else args.per_device_eval_batch_size
            with torch.no_grad(), disable_gradient_checkpointing(self.model, args.gradient_checkpointing_kwargs):
                batch["old_per_token_logps"] = self._score(self.model, batch, batch_size=size)[0]
        engine = batch.pop("sampling_per_token_logps", None)
        if engine is not None and self.args.behaviour_log_probs == "engine":
            # vLLM marks tokens that it could not score with NaN.
            own = batch["old_per_token_logps"]
            batch["old_per_token_logps"] = torch.where(engine.isnan(), own, engine.to(own.dtype))
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """In training, a micro-batch from the buffer; ``generation_batch`` is used when all draws are spent."""
        if not self.model.training:
            evaluated: dict[str, Any] = super()._prepare_inputs(generation_batch)
            return evaluated
        if not self._draws:
            self._store(self._generate_and_score_completions(generation_batch))
        return self._drawn(*self._draws.popleft())

    def _drawn(self, positions: Tensor, count: int) -> dict[str, Any]:
        batch = collate(self.replay, positions, self._tokenizer.pad_token_id, self.pad_to_multiple_of)
        if self._proximal:
            batch = anchored(batch, positions, self._proximal, self.pad_to_multiple_of)
        batch["num_items_in_batch"] = torch.tensor(count)
        return {name: values.to(self.accelerator.device) for name, values in batch.items()}

    def _store(self, batch: dict[str, Any]) -> None:
        """Add a generation batch to the buffer and draw what it pays for, with the token count of each step."""
        args = self.args
        self.replay.add(to_iteration(batch), len(batch["advantages"]))
        # The global generator is in every checkpoint of transformers, for each process its own.
        draws = self.replay.minibatches(
            args.per_device_train_batch_size, args.draws_per_generation, torch.default_generator
        )
        positions = list(draws)
        self._proximal = self._scored_anew(torch.cat(positions)) if args.anchor == "proximal" else {}
        tokens = token_counts(self.replay)[torch.stack(positions)].sum(1)
        steps = tokens.view(-1, args.gradient_accumulation_steps).sum(1)
        counts = self.accelerator.reduce(steps.to(self.accelerator.device)).tolist()
        self._draws.extend((p, counts[i // args.gradient_accumulation_steps]) for i, p in enumerate(positions))

    @torch.no_grad()
    def _scored_anew(self, drawn: Tensor) -> dict[int, Tensor]:
        """Log-probs of the drawn samples under the current policy by position, each sample scored once."""
        self._proximal = {}
        scored: dict[int, Tensor] = {}
        with disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            # As many forward passes in every process, which a sharded model needs: their buffers have one size.
            for positions in drawn.unique().split(self.args.per_device_train_batch_size):
                batch = self._drawn(positions, 0)
                scored |= dict(zip(positions.tolist(), unpadded(self._score(self.model, batch)[0], batch), strict=True))
        return scored

    def _score(self, model: Any, inputs: dict[str, Any], **options: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Log-probs and entropies of the completion tokens ``[B, T]``, and a mixture of experts' auxiliary loss."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        attention = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        kept = inputs["completion_ids"].size(1)
        scored: tuple[Tensor, Tensor | None, Tensor | None] = self._get_per_token_logps_and_entropies(
            model, ids, attention, kept, **options
        )
        return scored

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """The objective summed over the micro-batch, divided by the tokens of the optimizer step on all processes."""
        log_prob, entropy, router_loss = self._score(
            model, inputs, compute_entropy=True, compute_aux_loss=self.aux_loss_enabled
        )
        assert entropy is not None
        scored = _scored(log_prob, inputs)
        if not self._window:
            self._measured = self._of_whole_step(model, scored)
        moving = {"lam": self.dual.lam} if self.objective.uses_dual else {}
        count = max(1, int(inputs["num_items_in_batch"]))
        loss = minibatch_loss(self.objective, scored, count, **moving, **self._measured)
        log_prob, old, advantage, mask = scored.log_prob, scored.old_log_prob, scored.advantage, scored.mask
        assert mask is not None
        # Gradients are averaged over the processes afterwards, but the count is that of all of them.
        loss = loss * self.accelerator.num_processes
        training = self.model.training
        log_ratio = (log_prob.detach() - old)[mask]
        age = inputs.get("age", torch.zeros_like(mask[:, 0], dtype=torch.long))
        self._window.append(
            {
                "log_ratio": log_ratio,
                "advantage": advantage[mask],
                "entropy": entropy.detach()[mask].float(),
                "age": age.unsqueeze(1).expand_as(mask)[mask].float(),
                # The objective clamps log-ratios, so an infinite log-prob would not show in the loss.
                "bad": (~(loss.detach() + log_ratio.sum()).isfinite()).float().view(1),
            }
        )
        if router_loss is not None:
            loss = loss + self.router_aux_loss_coef * router_loss / (
                self.current_gradient_accumulation_steps if training else 1
            )
            mean = self.accelerator.gather_for_metrics(router_loss.detach()).mean().item()
            self._metrics["train" if training else "eval"]["aux_loss"].append(mean)
        if self.accelerator.sync_gradients or not training:
            self._close_window(training)
        return loss

    def _of_whole_step(self, model: Any, first: Scored) -> dict[str, Any]:
        """What the objective needs to know of all micro-batches of this optimizer step, those of all processes."""
        if not (self.objective.needs_minibatch and self.model.training):
            return {}
        step = [first]
        with torch.no_grad(), disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs):
            for draw in islice(self._draws, self.args.gradient_accumulation_steps - 1):
                inputs = self._drawn(*draw)
                step.append(_scored(self._score(model, inputs)[0], inputs))
        processes = AcceleratedProcesses()
        log_ratio = torch.cat([(part.log_prob.detach() - part.old_log_prob)[part.mask] for part in step])
        advantage = torch.cat([part.advantage[part.mask] for part in step])
        return self.objective.measured(*(processes.concatenate(values) for values in (log_ratio, advantage)))

    def _close_window(self, training: bool) -> None:
        """Diagnostics over the micro-batches of an optimizer step on all processes, and the dual step (Eq. 12)."""
        parts, self._window = self._window, []
        seen = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        lam = self.dual.lam if self.objective.uses_dual else 0.0
        values = {**dict.fromkeys(_DIAGNOSTICS, 0.0), "max_ratio": 0.0}
        if tokens := len(seen["log_ratio"]):
            values = ratio_diagnostics(seen["log_ratio"], seen["advantage"], lam=lam)
        sums = [values[name] * tokens for name in _DIAGNOSTICS]
        sums += [float(seen[name].sum()) for name in ("entropy", "age", "bad")]
        *means, bad, total = self._over_processes([*sums, float(tokens)], "sum")
        if bad:
            raise TrainingDiverged("non-finite log-probs or loss; the weights are those of the last finite step")
        metrics = dict(zip((*_DIAGNOSTICS, "entropy", "buffer/age"), (m / max(1.0, total) for m in means), strict=True))
        if training:
            if total:
                self.dual.update(metrics["ratio_variance"])
            metrics |= {"lam": self.dual.lam, "buffer/iterations": len(self.replay.sizes)}
        [metrics["max_ratio"]] = self._over_processes([values["max_ratio"]], "max")
        for name, value in metrics.items():
            self._metrics["train" if training else "eval"][name].append(value)

    def _over_processes(self, values: list[float], reduction: str) -> list[float]:
        """Elementwise sum or maximum over the processes, the same everywhere."""
        if self.accelerator.num_processes == 1:
            return values
        local = torch.tensor([values], dtype=torch.float64, device=self.accelerator.device)
        everywhere = self.accelerator.gather(local)
        reduced: list[float] = (everywhere.sum(0) if reduction == "sum" else everywhere.amax(0)).tolist()
        return reduced

    def _state_file(self, directory: str) -> Path:
        return Path(directory) / f"r2vpo_state_{self.args.process_index}.zip"

    def _save_rng_state(self, output_dir: str) -> None:
        """Every process writes lambda, its buffer and its draws; TRL pushes and rotates the checkpoint only later."""
        super()._save_rng_state(output_dir)
        state = {
            "layout": {name: getattr(self.args, name) for name in _LAYOUT},
            "dual": self.dual.state_dict(),
            "replay": self.replay.state_dict(),
            "draws": [{"positions": positions, "count": count} for positions, count in self._draws],
            "proximal": self._proximal,
        }
        save_tree(self._state_file(output_dir), state)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also lambda, buffer and draws; the dual rule and its step are those of the settings."""
        if checkpoint is not None:
            self._load_state(checkpoint)
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_state(self, checkpoint: str) -> None:
        state = load_tree(self._state_file(checkpoint))
        for name, value in state["layout"].items():
            if getattr(self.args, name) != value:
                raise ConfigError(name, getattr(self.args, name), f"{value!r}, as in {checkpoint}")
        self.dual.lam = state["dual"]["lam"]
        self.replay.load_state_dict(state["replay"])
        self._draws = deque((draw["positions"], draw["count"]) for draw in state["draws"])
        self._proximal = state.get("proximal", {})  # files of an earlier version have none


def _scored(log_prob: Tensor, inputs: dict[str, Any]) -> Scored:
    log_prob = log_prob.float()
    mask = (inputs["completion_mask"] * inputs.get("tool_mask", 1)).bool()
    advantage = inputs["advantages"].unsqueeze(1).expand_as(log_prob) * inputs.get("advantage_weights", 1.0)
    return Scored(log_prob, inputs["old_per_token_logps"].float(), advantage, mask)
