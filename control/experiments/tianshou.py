"""Tianshou's PPO (https://github.com/thu-ml/tianshou, version 2) under the recipe of its authors' MuJoCo benchmark.

The numbers are those of the published table: 64 environments and no clipping of the value, where the script that comes
with version 2 has 8 and clips; its authors found neither to matter. All environments are in one process.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch
from torch import nn
from torch.distributions import Distribution, Independent, Normal

from r2vpo.control.evaluation import BatchPolicy, EpisodeLog
from r2vpo.control.experiments.peer_run import OnProgress, PeerRun, Ticker
from r2vpo.envs.making import EnvSource, env_name, make_env, require_box_spaces


def _ppo_arguments() -> dict[str, Any]:
    return {
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "eps_clip": 0.2,
        "dual_clip": None,
        "value_clip": False,
        "vf_coef": 0.25,
        "ent_coef": 0.0,
        "max_grad_norm": 0.5,
        "advantage_normalization": False,
        "recompute_advantage": True,
        "return_scaling": True,
    }


@dataclass(frozen=True)
class TianshouPPO:
    """Every number of the recipe, and the training under it."""

    package: ClassVar[str] = "tianshou"
    versions: ClassVar[str] = ">=2.0,<3"

    num_envs: int = 64
    rollout_size: int = 2048
    """Environment steps between two updates, of all environments together."""
    passes: int = 10
    minibatch_size: int = 64
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Of actor and critic each, with tanh between."""
    weight_gain: float = 2**0.5
    """Of orthogonal weights, every layer's; biases are 0."""
    mean_weight_scale: float = 0.01
    """Multiplies the weights of the actor's last layer, so that the first actions have a mean of nearly 0."""
    log_std_init: float = -0.5
    learning_rate: float = 3e-4
    adam_eps: float = 1e-8
    learning_rate_horizon: int = 1500 * 2048
    """Environment steps at which the learning rate, falling linearly, reaches 0; the whole run where that is longer."""
    normalised_observations: bool = True
    """By their running mean and deviation, clipped at 10 deviations."""
    ppo: dict[str, Any] = field(default_factory=_ppo_arguments)
    """Arguments of the class. Values, advantages and returns are computed anew before each pass."""

    def train(self, env: EnvSource, seed: int, total_steps: int, on_progress: OnProgress | None = None) -> PeerRun:
        """Train it; see :class:`r2vpo.control.experiments.peer_run.Peer`."""
        horizon = max(self.learning_rate_horizon, total_steps)
        _seed_generators(seed)
        envs, action_space, observation_shape = self._make_envs(env, seed)
        recorder = _Recorder(self.num_envs, on_progress)
        try:
            algorithm = self._make_ppo(observation_shape, action_space, horizon)
            trainer = algorithm.create_trainer(self._training(algorithm, envs, recorder, total_steps))
            started = time.perf_counter()
            trainer.run()
            train_seconds = time.perf_counter() - started
        finally:
            envs.close()
        config = {"class": "PPO", "env": env_name(env), **asdict(self), "learning_rate_horizon": horizon}
        return PeerRun(_Acting(algorithm.policy, envs.get_obs_rms()), recorder.episodes, train_seconds, config)

    def _make_envs(self, env: EnvSource, seed: int) -> tuple[Any, gym.spaces.Box, tuple[int, ...]]:
        """Environments that normalise observations, the action space of one, and the shape of its observation."""
        from tianshou.env import DummyVectorEnv, VectorEnvNormObs

        envs = DummyVectorEnv([lambda: _BareInfo(make_env(env))] * self.num_envs)
        envs.seed([int(s) for s in np.random.SeedSequence(seed).generate_state(self.num_envs)])
        observations, actions = require_box_spaces(envs.workers[0].env)
        return VectorEnvNormObs(envs), actions, observations.shape

    def _make_ppo(self, observation_shape: tuple[int, ...], action_space: gym.spaces.Box, horizon: int) -> Any:
        from tianshou.algorithm import PPO
        from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
        from tianshou.algorithm.optim import AdamOptimizerFactory, LRSchedulerFactoryLinear

        actor, critic = self._make_networks(observation_shape, action_space.shape)
        bounded = action_space.is_bounded()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "action_scaling and action_bound_method")  # of every unbounded actor
            policy = ProbabilisticActorPolicy(
                actor=actor,
                dist_fn=_gaussian,
                action_space=action_space,
                action_scaling=bounded,
                action_bound_method="clip" if bounded else None,
            )
        optim = AdamOptimizerFactory(self.learning_rate, eps=self.adam_eps)
        optim.with_lr_scheduler_factory(LRSchedulerFactoryLinear(1, horizon, self.rollout_size))
        return PPO(policy=policy, critic=critic, optim=optim, **self.ppo)

    def _make_networks(
        self, observation_shape: tuple[int, ...], action_shape: tuple[int, ...]
    ) -> tuple[nn.Module, nn.Module]:
        from tianshou.utils.net.common import Net
        from tianshou.utils.net.continuous import ContinuousActorProbabilistic, ContinuousCritic

        trunks = [Net(state_shape=observation_shape, hidden_sizes=self.hidden_sizes, activation=nn.Tanh) for _ in "ac"]
        actor = ContinuousActorProbabilistic(preprocess_net=trunks[0], action_shape=action_shape, unbounded=True)
        critic = ContinuousCritic(preprocess_net=trunks[1])
        for module in nn.ModuleList([actor, critic]).modules():
            if isinstance(module, nn.Linear):
                nn.init.orthogonal_(module.weight, self.weight_gain)
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            actor.sigma_param.fill_(self.log_std_init)
            for layer in actor.mu.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(self.mean_weight_scale)
        return actor, critic

    def _training(self, algorithm: Any, envs: Any, recorder: _Recorder, total_steps: int) -> Any:
        from tianshou.data import Collector, VectorReplayBuffer
        from tianshou.trainer import OnPolicyTrainerParams

        buffer = VectorReplayBuffer(self.rollout_size, self.num_envs)
        return OnPolicyTrainerParams(
            training_collector=Collector(algorithm, envs, buffer, exploration_noise=True, on_step_hook=recorder),
            max_epochs=1,
            epoch_num_steps=total_steps,
            collection_step_num_env_steps=self.rollout_size,
            update_step_num_repetitions=self.passes,
            batch_size=self.minibatch_size,
            verbose=False,
            show_progress=False,
        )


def _seed_generators(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  Tianshou shuffles minibatches with it.


def _gaussian(mean_and_std: tuple[torch.Tensor, torch.Tensor]) -> Distribution:
    return Independent(Normal(*mean_and_std), 1)


class _BareInfo(gym.Wrapper):
    """Drops ``info``: Tianshou's buffer would store all of it, and PPO reads none."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        return self.env.reset(**kwargs)[0], {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        return *self.env.step(action)[:4], {}


class _Recorder:
    """Keeps finished episodes and reports progress; called after each step of all environments."""

    def __init__(self, num_envs: int, on_progress: OnProgress | None) -> None:
        self.episodes, self._tick = EpisodeLog(), Ticker(on_progress)
        self._steps, self._returns = 0, np.zeros(num_envs)

    def __call__(self, _actions: Any, transitions: Any) -> None:
        self._steps += len(self._returns)
        self._returns += transitions.rew
        for index in np.flatnonzero(transitions.done):
            self.episodes.add(self._steps, float(self._returns[index]))
            self._returns[index] = 0.0
        self._tick(self._steps)


@dataclass(frozen=True)
class _Acting:
    """``act(deterministic)`` on raw observations, normalised by what training saw."""

    policy: Any
    statistics: Any

    def __call__(self, deterministic: bool) -> BatchPolicy:
        from tianshou.data import Batch

        def act(observations: np.ndarray) -> np.ndarray:
            self.policy.deterministic_eval = deterministic
            with torch.no_grad():
                actions = self.policy(Batch(obs=self.statistics.norm(observations), info={})).act
            return self.policy.map_action(actions)

        return act
