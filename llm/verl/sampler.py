"""Replay of past rollouts behind verl's sampler interface (arXiv 2601.03320, Algorithm 2)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import transfer_queue as tq
from omegaconf import OmegaConf
from tensordict.tensorclass import NonTensorStack
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from r2vpo.errors import ConfigError
from r2vpo.replay import ReplayBuffer as Iterations

GROUPS_PER_COPY = 32
"""Groups that pass through the trainer's memory at a time when they are copied."""


@dataclass
class Group:
    """The trajectories of one prompt as TransferQueue holds them."""

    keys: list[str]
    tags: list[dict[str, Any]]


class FIFOReplayBuffer(ReplayBuffer):
    """verl's sampler with the last few iterations behind it: each call stores the new groups and draws from all.

    What it returns are copies under fresh keys: verl writes old log-probs and advantages to the keys it gets, and
    clears them at the end of the step. The originals stay in TransferQueue, untouched, until they are too old. Groups
    are drawn whole, so that the advantages verl computes again are those of collection. Which groups are drawn, and
    which are too old, is for :class:`r2vpo.replay.ReplayBuffer` to say; it holds serial numbers here, because the
    rollouts belong in TransferQueue, spread over the machines.

    Args:
        sampler_kwargs: ``buffer_iterations`` (4, at least 1), ``utd`` (2, at least 1): groups trained on for each new
            one, ``seed`` (0) of the draw.
        kwargs: What verl gives to every sampler.

    Raises:
        ConfigError: An unknown name in ``sampler_kwargs``, or a value outside its range.
    """

    def __init__(self, *, sampler_kwargs: Any, **kwargs: Any) -> None:
        super().__init__(sampler_kwargs=sampler_kwargs, **kwargs)
        settings = {"buffer_iterations": 4, "utd": 2, "seed": 0} | _plain(sampler_kwargs)
        _check(settings)
        self.utd: int = settings["utd"]
        self.iterations = Iterations(settings["buffer_iterations"])
        self.generator = torch.Generator().manual_seed(settings["seed"])
        self._groups: dict[int, Group] = {}
        self._stored = 0

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Wait for ``batch_size`` new groups, store them, and return ``utd`` times as many drawn from the buffer.

        Args:
            global_steps: Iteration of the trainer.
            partition_id: ``"train"``, or ``"val"``, which is verl's own business.
            batch_size: Groups (prompts).

        Returns:
            Keys and tags of the copies, and metrics.
        """
        fresh, metrics = super().sample(global_steps, partition_id, batch_size)
        if partition_id == "val":
            return fresh, metrics
        self._store(fresh)
        drawn = self._draw(batch_size)
        keys: list[str] = []
        tags: list[dict[str, Any]] = []
        for serials in _without_repeats(drawn):
            copied = self._copy([self._groups[serial] for serial in serials], partition_id)
            keys += copied.keys
            tags += copied.tags
        metrics["training/replay/groups"] = len(self.iterations)
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags), metrics

    def state_dict(self) -> dict[str, Any]:
        """Which groups are stored, where, and the state of the draw; the rollouts are in TransferQueue's checkpoint."""
        return {
            "iterations": self.iterations.state_dict(),
            "generator": self.generator.get_state(),
            "groups": {serial: asdict(group) for serial, group in self._groups.items()},
            "stored": self._stored,
        }

    def load_state_dict(self, state: dict[str, Any], partition_id: str = "train") -> None:
        """Restore what :meth:`state_dict` returned, after TransferQueue has restored the rollouts.

        Anything else in the partition belonged to the step that wrote the checkpoint, and is cleared.
        """
        self.iterations.load_state_dict(state["iterations"])
        self.generator.set_state(state["generator"])
        self._groups = {int(serial): Group(**group) for serial, group in state["groups"].items()}
        self._stored = state["stored"]
        ours = {key for group in self._groups.values() for key in group.keys}
        present = (tq.kv_list(partition_id) or {}).get(partition_id, {})
        _clear([key for key in present if key not in ours], partition_id)

    def _store(self, fresh: KVBatchMeta) -> None:
        groups: dict[str, Group] = {}
        for key, tag in zip(fresh.keys, fresh.tags, strict=True):
            group = groups.setdefault(_prompt(key), Group([], []))
            group.keys.append(key)
            group.tags.append(tag)
        serials = range(self._stored, self._stored + len(groups))
        self._stored += len(groups)
        self._groups |= dict(zip(serials, groups.values(), strict=True))
        self.iterations.add({"serial": torch.tensor(serials)}, len(groups))
        kept = set(self._serials().tolist())
        for serial in [serial for serial in self._groups if serial not in kept]:
            _clear(self._groups.pop(serial).keys, fresh.partition_id)

    def _serials(self) -> torch.Tensor:
        return torch.cat([iteration["serial"] for iteration in self.iterations.iterations])

    def _draw(self, batch_size: int) -> list[int]:
        positions = torch.cat(list(self.iterations.minibatches(batch_size, self.utd, self.generator)))
        return self._serials()[positions].tolist()

    def _copy(self, groups: list[Group], partition_id: str) -> KVBatchMeta:
        """Copies of different groups under fresh prompt ids: verl groups rewards by the field ``uid``."""
        data = tq.kv_batch_get(keys=[key for group in groups for key in group.keys], partition_id=partition_id)
        keys, uids = [], []
        for group in groups:
            uid = str(uuid.uuid4())
            keys += [uid + key.removeprefix(_prompt(key)) for key in group.keys]
            uids += [uid] * len(group.keys)
        data["uid"] = NonTensorStack(*uids)
        tags = [dict(tag) for group in groups for tag in group.tags]
        tq.kv_batch_put(keys=keys, partition_id=partition_id, fields=data, tags=tags)
        return KVBatchMeta(partition_id=partition_id, keys=keys, tags=tags)


def _prompt(key: str) -> str:
    """Prompt id in a key ``{uid}_{session}_{index}``."""
    return key.split("_", 1)[0]


def _without_repeats(serials: list[int]) -> Iterator[list[int]]:
    """Consecutive runs of bounded length in which no group comes twice, so that no key is asked for twice at once."""
    run: list[int] = []
    for serial in serials:
        if serial in run or len(run) == GROUPS_PER_COPY:
            yield run
            run = []
        run.append(serial)
    yield run


def _clear(keys: list[str], partition_id: str) -> None:
    if keys:
        tq.kv_clear(keys=keys, partition_id=partition_id)


def _plain(settings: Any) -> dict[str, Any]:
    return dict(OmegaConf.to_container(settings) if OmegaConf.is_config(settings) else settings or {})


def _check(settings: dict[str, Any]) -> None:
    lowest = {"buffer_iterations": 1, "utd": 1, "seed": 0}
    for name, value in settings.items():
        field = f"trainer.v1.sampler.sampler_kwargs.{name}"
        if name not in lowest:
            raise ConfigError(field, value, f"left out; the settings are {', '.join(lowest)}")
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest[name]:
            raise ConfigError(field, value, f"a whole number of at least {lowest[name]}")
