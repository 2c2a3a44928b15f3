"""Collecting the next rollout while the learner works on the last, in a process of its own.

:class:`OverlappedCollector` is what the learner's process has; ``python -m r2vpo.control.overlap`` is the other end.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import IO, Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch

from r2vpo.control.collector import ActionBounds, Collector, FinishedEpisode, OnStep, Rollout
from r2vpo.control.policy import GaussianPolicy
from r2vpo.envs.engines import Engine, make_vector_env
from r2vpo.envs.making import EnvSource
from r2vpo.errors import EnvironmentFailure, TrainingDiverged

Collected = tuple[Rollout, list[FinishedEpisode]]
FAILURES = (EnvironmentFailure, TrainingDiverged)
"""Of a rollout, to be raised when it would be handed out."""


class OverlappedCollector:
    """A collector that works ahead: what it hands out was collected by the policy of one update ago.

    The policy is sent when a rollout begins, and the action noise comes from a generator of its own, so that the
    outcome does not depend on which of the two, collecting or learning, is faster. The stored log-probs are those of
    the policy that acted: the ratio knows about the staleness.

    Args:
        spec: Environments and how to act in them.
        policy: The learner's; only read, and only between updates.
    """

    def __init__(self, spec: CollectorSpec, policy: GaussianPolicy) -> None:
        self.policy = policy
        self._process = CollectorProcess(spec)
        self.engine = f"{self._process.engine}: {self._process.engine_reason}; collecting ahead"
        self._under_way = False
        self._ahead: Collected | EnvironmentFailure | TrainingDiverged | None = None

    def reset(self, seed: int) -> None:
        """Start a new episode in every environment; what was collected ahead is dropped."""
        self._finish()
        self._ahead = None
        self._process.send("reset", seed)
        self.policy.normalizer.origin.copy_(torch.from_numpy(self._process.receive()))

    def collect(self, steps: int, on_step: OnStep | None = None) -> Collected:
        """Hand out the rollout that was begun at the last call, and begin the next with the policy of now.

        Args:
            steps: T, the same at each call.
            on_step: Called T times when the rollout is handed out, between two updates; see :meth:`Collector.collect`.

        Raises:
            EnvironmentFailure: As :meth:`Collector.collect`, for the rollout that would be handed out.
            TrainingDiverged: Likewise.
        """
        if self._ahead is None and not self._under_way:
            self._begin(steps)
        collected = self._finish()
        assert collected is not None
        if isinstance(collected, FAILURES):
            raise collected
        self._begin(steps)
        if on_step is not None:
            rollout, _ = collected
            for rewards, dones in zip(rollout["rewards"].numpy(), rollout["done"].numpy(), strict=True):
                on_step(rewards, dones)
        return collected

    def state_dict(self) -> dict[str, Any] | None:
        """Waits for the rollout under way, which is part of the state.

        Returns:
            None when an environment has failed in it: the next :meth:`collect` says how.
        """
        ahead = self._finish()
        if isinstance(ahead, FAILURES):
            return None
        self._process.send("state_dict")
        state: dict[str, Any] = self._process.receive()
        if ahead is not None:
            rollout, finished = ahead
            state["ahead"] = {"rollout": rollout, "finished": [asdict(episode) for episode in finished]}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Restore what :meth:`state_dict` returned; returns what the environments could not restore."""
        self._finish()
        self._ahead = None
        if "ahead" in state:
            finished = [FinishedEpisode(**episode) for episode in state["ahead"]["finished"]]
            self._ahead = state["ahead"]["rollout"], finished
        self._process.send("load_state_dict", {name: state[name] for name in ("collector", "noise")})
        unknown: list[str] = self._process.receive()
        return unknown

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def _begin(self, steps: int) -> None:
        weights = {name: value.numpy() for name, value in self.policy.state_dict().items()}
        self._process.send("collect", weights, steps)
        self._under_way, self._ahead = True, None

    def _finish(self) -> Collected | EnvironmentFailure | TrainingDiverged | None:
        """Wait for the rollout under way; the rollout that is ahead, or why there is none."""
        if self._under_way:
            self._under_way = False
            try:
                arrays, finished = self._process.receive()
                self._ahead = {name: torch.from_numpy(values) for name, values in arrays.items()}, finished
            except FAILURES as failure:
                self._ahead = failure
        return self._ahead


def noise_seed(seed: int) -> int:
    """Of the action noise: a stream apart from the learner's, which has drawn from the plain seed."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1)[0])


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
        words = [sys.executable, "-m", "r2vpo.control.overlap"]
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

    def reset(self, seed: int) -> np.ndarray:
        """See :meth:`Collector.reset`; returns the origin of the observations, which it may have set."""
        self.collector.reset(seed)
        return self.collector.policy.normalizer.origin.numpy()

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
