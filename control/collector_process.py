"""A collector in a process of its own, so that collecting and learning do not share an interpreter lock."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch

from r2vpo.control.action_bounds import ActionBounds
from r2vpo.control.collector import Collector, FinishedEpisode, Rollout
from r2vpo.control.gaussian import GaussianPolicy
from r2vpo.envs.engines import Engine, make_vector_env
from r2vpo.envs.making import EnvSource
from r2vpo.errors import EnvironmentFailure

Collected = tuple[Rollout, list[FinishedEpisode]]


@dataclass
class CollectorSpec:
    """What the process needs to know once."""

    env: EnvSource
    num_envs: int
    engine: Engine
    env_threads: int | None
    policy: GaussianPolicy
    action_bounds: str
    noise_seed: int
    torch_threads: int
    stagger: bool
    registered: gym.envs.registration.EnvSpec | None = None
    """Of an id, in case it is the caller who registered it."""


class CollectorProcess:
    """The caller's end: requests are answered in order, and the answers are fetched when they are wanted.

    Args:
        spec: Its ``env`` is an id or a function; functions travel by value.

    Raises:
        ConfigError: The environments cannot be made.
        EnvironmentFailure: The process ended before it was ready.
    """

    def __init__(self, spec: CollectorSpec) -> None:
        if isinstance(spec.env, str):
            spec.registered = gym.registry.get(spec.env)
        words = [sys.executable, "-m", "r2vpo.control.collector_process"]
        self._process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        # The path first: what the functions in the rest refer to may lie beside the caller's script.
        self._write(pickle.dumps(sys.path) + cloudpickle.dumps(spec))
        self.engine: str
        self.engine_reason: str
        self.engine, self.engine_reason = self.receive()

    def send(self, method: str, *arguments: Any) -> None:
        """Ask for a method of the worker; :meth:`receive` has the answer."""
        self._write(pickle.dumps((method, arguments), protocol=5))

    def receive(self) -> Any:
        """Answer to the oldest request not answered yet; raises what it raised."""
        try:
            answer, error = pickle.load(self._answers)
        except EOFError as gone:
            raise self._ended() from gone
        if error is not None:
            raise error
        return answer

    def close(self) -> None:
        """End the process once it has done what it was asked."""
        self._requests.close()
        self._answers.close()
        self._process.wait()

    def _write(self, message: bytes) -> None:
        try:
            self._requests.write(message)
            self._requests.flush()
        except OSError as gone:
            raise self._ended() from gone

    def _ended(self) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"the process that steps the environments has ended (exit status {self._process.wait()})"
        )


class CollectorWorker:
    """The other end: a collector, its environments and its noise. Takes and gives NumPy arrays."""

    def __init__(self, spec: CollectorSpec) -> None:
        if isinstance(spec.env, str) and spec.registered is not None:
            gym.registry.setdefault(spec.env, spec.registered)
        if spec.torch_threads:
            torch.set_num_threads(spec.torch_threads)
        self.envs = make_vector_env(spec.env, spec.num_envs, spec.engine, spec.env_threads)
        self.generator = torch.Generator().manual_seed(spec.noise_seed)
        bounds = ActionBounds(self.envs.action_space, spec.action_bounds)
        self.collector = Collector(self.envs, spec.policy, bounds, self.generator, spec.stagger)

    def describe(self) -> tuple[str, str]:
        """Engine, and why it was chosen."""
        return self.envs.engine, self.envs.engine_reason

    def reset(self, seed: int) -> None:
        """See :meth:`Collector.reset`."""
        self.collector.reset(seed)

    def collect(self, policy: dict[str, np.ndarray], steps: int) -> tuple[dict[str, np.ndarray], list[FinishedEpisode]]:
        """See :meth:`Collector.collect`; ``policy`` is the state dict of the policy to act with."""
        self.collector.policy.load_state_dict({name: torch.from_numpy(value) for name, value in policy.items()})
        rollout, finished = self.collector.collect(steps)
        return {name: values.numpy() for name, values in rollout.items()}, finished

    def state_dict(self) -> dict[str, Any]:
        """Environments, episodes under way and noise."""
        return {"collector": self.collector.state_dict(), "noise": self.generator.get_state().numpy()}

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned; returns what the environments could not restore."""
        unknown = self.collector.load_state_dict(state["collector"])
        self.generator.set_state(torch.as_tensor(state["noise"]))
        return unknown


def main() -> None:
    """Answer requests on standard output until standard input closes."""
    # Ctrl-C reaches the whole process group; the caller decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what environments print must not end up among the answers
    requests = sys.stdin.buffer
    workers: list[CollectorWorker] = []

    def begin() -> tuple[str, str]:
        sys.path[:] = pickle.load(requests)
        workers.append(CollectorWorker(cloudpickle.load(requests)))
        return workers[0].describe()

    _answer(answers, begin)
    while workers:
        try:
            method, arguments = pickle.load(requests)
        except EOFError:
            break
        _answer(answers, getattr(workers[0], method), *arguments)


def _answer(answers: IO[bytes], call: Callable[..., Any], *arguments: Any) -> None:
    """Send what the call returns or raises."""
    try:
        message = pickle.dumps((call(*arguments), None), protocol=5)
    except Exception as error:
        message = pickle.dumps((None, _portable(error)), protocol=5)
    try:
        answers.write(message)
        answers.flush()
    except BrokenPipeError:
        # The caller has ended and wants no answer. Closing the pipe again at exit would only complain.
        os._exit(0)


def _portable(error: Exception) -> Exception:
    """The error itself where it survives the journey, else its words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return EnvironmentFailure(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    main()
