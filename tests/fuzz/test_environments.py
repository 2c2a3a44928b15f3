"""Generated environments: a wrong one is refused by name, index and step; a right one trains, whatever it is like.

What is wrong follows from Gymnasium's interface and from the spaces alone, not from the code that checks them.
"""

import itertools
import math
import pickle
from dataclasses import dataclass, replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box
from hypothesis import given
from hypothesis import strategies as st

from r2vpo.control import R2VPO
from r2vpo.control.evaluation import evaluate_policy
from r2vpo.control.overlap import CollectorSpec, CollectorWorker
from r2vpo.errors import ConfigError, EnvironmentFailure

ROLLOUT = 24
SMALL = {"rollout_steps": ROLLOUT, "minibatch_size": 12, "epochs": 1, "hidden_sizes": (8,), "eval_episodes": 0}
pytestmark = pytest.mark.filterwarnings("ignore:evaluation cut", "ignore:overflow")


@dataclass(frozen=True)
class Plan:
    """An environment that is right."""

    shape: tuple = (2,)
    dtype: str = "float32"
    action_shape: tuple = (2,)
    action_dtype: str = "float32"
    low: float = -1.0
    high: float = 1.0
    length: int | None = 5
    """Of an episode; None never ends one."""
    truncates: bool = False
    reused: bool = False
    """Whether all answers come in arrays that the next call overwrites."""
    reward: str = "float"
    flag: str = "bool"
    scale: float = 1.0
    offset: float = 0.0


NUMBERS = {
    "float": float,
    "int": int,
    "float32": np.float32,
    "int8": np.int8,
    "scalar array": np.asarray,
    "array of one": lambda number: np.array([number]),
}
FLAGS = {
    "bool": bool,
    "np.bool": np.bool_,
    "int": int,
    "uint8": np.uint8,
    "scalar array": np.asarray,
    "array of one": lambda flag: np.array([flag]),
}

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
PLANS = st.builds(
    Plan,
    shape=shapes,
    dtype=st.sampled_from(["float16", "float32", "float64", "longdouble", "uint8", "int16", "int64", "bool"]),
    action_shape=shapes,
    action_dtype=st.sampled_from(["float16", "float32", "float64"]),
    low=st.sampled_from([-1.0, -100.0, 0.25, -math.inf]),
    high=st.sampled_from([1.0, 2.5, 1000.0, math.inf]),
    length=st.none() | st.integers(1, 12),
    truncates=st.booleans(),
    reused=st.booleans(),
    reward=st.sampled_from(list(NUMBERS)),
    flag=st.sampled_from(list(FLAGS)),
    scale=st.sampled_from([1e-6, 1.0, 1e4]),
    offset=st.sampled_from([0.0, -3.0, 1.7e9]),
)


@dataclass(frozen=True)
class Fault:
    """What an environment does wrong, and when in its life."""

    kind: str
    value: object
    resets: int
    """Resets before it, where it is one of a reset, else after it."""
    steps: int
    """Steps of the episode under way; 0 for a reset."""


class Generated(gym.Env):
    """Does as planned, but for its fault."""

    def __init__(self, plan, fault=None):
        self.plan, self.fault = plan, fault
        whole = not plan.dtype.startswith(("float", "long"))
        self.observation_space = Box(*((0, 1) if whole else (-np.inf, np.inf)), plan.shape, np.dtype(plan.dtype).type)
        self.action_space = Box(plan.low, plan.high, plan.action_shape, np.dtype(plan.action_dtype).type)
        self.resets = self.steps = 0
        self.buffers = {}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        at_fault = self.fault is not None and (self.fault.resets, self.fault.steps) == (self.resets, 0)
        answer = self.keep("observation", self.draw()), {}
        answer = self.wrong(answer) if at_fault else answer
        self.resets, self.steps = self.resets + 1, 0
        return answer

    def step(self, action):
        assert action.shape == self.plan.action_shape
        assert (action >= self.plan.low).all()
        assert (action <= self.plan.high).all()
        self.steps += 1
        plan, over = self.plan, self.steps == self.plan.length
        reward = NUMBERS[plan.reward](round(float(np.clip(action, -9.0, 9.0).mean())))
        flags = (FLAGS[plan.flag](over and plan.truncates == wanted) for wanted in (False, True))
        flags = (self.keep(name, flag) for name, flag in zip(("terminated", "truncated"), flags, strict=True))
        answer = self.keep("observation", self.draw()), self.keep("reward", reward), *flags, {"steps": self.steps}
        if self.fault is not None and (self.fault.resets, self.fault.steps) == (self.resets, self.steps):
            return self.wrong(answer)
        return answer

    def draw(self):
        if np.dtype(self.plan.dtype).kind != "f":
            return self.np_random.integers(0, 2, self.plan.shape).astype(self.plan.dtype)
        numbers = self.plan.offset + self.plan.scale * self.np_random.normal(size=self.plan.shape)
        return (
            np.clip(numbers, -6e4, 6e4).astype(self.plan.dtype)
            if self.plan.dtype == "float16"
            else np.asarray(numbers, self.plan.dtype)
        )

    def keep(self, name, value):
        if not self.plan.reused or not isinstance(value, np.ndarray):
            return value
        buffer = self.buffers.setdefault(name, np.empty_like(value))
        buffer[...] = value
        return buffer

    def wrong(self, answer):
        kind, value = self.fault.kind, self.fault.value
        if kind == "raises":
            raise value
        if kind == "number":
            changed = np.array(answer[0], np.float64)
            changed.flat[-1] = value
            return changed, *answer[1:]
        if kind == "answer":
            return answer[:value] if isinstance(value, int) else value(answer)
        place = (
            ("observation", "reward", "terminated", "truncated", "info").index(kind)
            if self.fault.steps
            else (["observation", "info"].index(kind))
        )
        return *answer[:place], value, *answer[place + 1 :]


class Unpicklable(Exception):
    def __init__(self, one, two):
        super().__init__(f"{one} and {two}")
        self.function = lambda: None


def no_numbers(plan):
    """Observations that are none, or of another shape."""
    others = shapes.filter(lambda shape: shape != plan.shape).map(lambda shape: np.zeros(shape, plan.dtype))
    words = [None, {}, {"observation": 1.0}, "text", b"text", {1.0, 2.0}, [[1.0], [1.0, 2.0]], 1j, gym.Env(), range]
    arrays = [np.full(plan.shape, fill) for fill in ("a", None, 1j, np.datetime64(1, "s"))]
    return others | st.sampled_from(words) | st.sampled_from(arrays)


TOO_FAR = st.sampled_from([math.nan, math.inf, -math.inf, 3.5e38, -1e39, 1e300]) | st.floats(min_value=1e39)
NO_REWARD = [None, "1.0", b"1", [], [1.0], (1.0,), {}, 1j, object, np.ones(2), np.ones(0), np.array("1"), 10**400]
NO_FLAG = [None, "False", 0.0, 1.0, 1.5, 2, -1, [], [True], {}, math.nan, np.zeros(2, bool), np.zeros(0), np.array(0.0)]
NO_INFO = [None, 0, 1.5, "info", [], (), True, {1}, [("key", 1)], np.zeros(1)]
ERRORS = [
    RuntimeError("gone"),
    ValueError(),
    KeyError("key"),
    AssertionError(),
    StopIteration(3),
    ZeroDivisionError("by zero"),
    NotImplementedError(),
    OSError(28, "No space left"),
    MemoryError(),
    RecursionError("deep"),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
    SystemExit(1),
    Unpicklable(1, 2),
]
ANSWERS = [
    lambda answer: None,
    lambda answer: answer[0],
    lambda answer: dict(enumerate(answer)),
    lambda answer: (*answer, {}),
    lambda answer: iter(answer),
    lambda answer: (answer,),
]
WRONG = {
    "observation": no_numbers,
    "number": lambda plan: TOO_FAR,
    "reward": lambda plan: st.sampled_from(NO_REWARD) | TOO_FAR,
    "terminated": lambda plan: st.sampled_from(NO_FLAG),
    "truncated": lambda plan: st.sampled_from(NO_FLAG),
    "info": lambda plan: st.sampled_from(NO_INFO),
    "raises": lambda plan: st.sampled_from(ERRORS),
    "answer": lambda plan: st.sampled_from(ANSWERS),
}
CASES = [(kind, "step") for kind in WRONG] + [
    (kind, "reset") for kind in ("observation", "number", "info", "raises", "answer")
]


def train(make, plan, num_envs):
    R2VPO(make, num_envs=num_envs, **SMALL).learn(num_envs * ROLLOUT)


def evaluate(make, plan, num_envs):
    envs = [make() for _ in range(num_envs)]
    zeros = np.zeros(plan.action_shape, plan.action_dtype).clip(plan.low, plan.high)
    evaluate_policy(lambda rows: zeros[None].repeat(len(rows), 0), envs, num_envs, seed=0, max_episode_steps=ROLLOUT)


def collect_elsewhere(make, plan, num_envs):
    """What the process of an overlapped run does, and its errors as they travel."""
    policy = R2VPO(lambda: Generated(plan), num_envs=1, **SMALL).policy
    worker = CollectorWorker(CollectorSpec(make, num_envs, "auto", None, policy, "rescale", 0, 1, False))
    try:
        worker.reset(0)
        worker.collect({name: value.numpy() for name, value in policy.state_dict().items()}, ROLLOUT)
    except EnvironmentFailure as failure:
        raise pickle.loads(pickle.dumps(failure)) from None


@pytest.mark.parametrize(("kind", "method"), CASES)
@given(data=st.data())
def test_a_wrong_answer_names_environment_index_and_step(refused, kind, method, data):
    ways = [train, evaluate, collect_elsewhere]
    way = data.draw(st.sampled_from(ways))
    plan = data.draw(PLANS)
    num_envs = data.draw(st.integers(1, 3))
    index = data.draw(st.integers(0, num_envs - 1))
    # An evaluation has one episode of each; training begins new ones, in rollouts of so many steps.
    episode = 0 if way is evaluate or plan.length is None else data.draw(st.integers(0, (ROLLOUT - 1) // plan.length))
    longest = min(plan.length or ROLLOUT, ROLLOUT - episode * (plan.length or 0))
    steps = data.draw(st.integers(1, longest)) if method == "step" else 0
    fault = Fault(kind, data.draw(WRONG[kind](plan)), episode + bool(steps), steps)
    numbers = itertools.cycle(range(num_envs))

    def Generator():  # noqa: N802
        return Generated(plan, fault if next(numbers) == index else None)

    with pytest.raises(EnvironmentFailure) as caught:
        way(Generator, plan, num_envs)
    where = f"step {steps} of its episode" if steps else "reset"
    name = "Generated" if way is evaluate else "Generator"
    said = f"environment {index} of {num_envs} ({name}) {'raised' if kind == 'raises' else 'returned'} in {where}"
    refused(caught.value, way.__name__, fault, index, plan.shape, names=said)


@given(plan=PLANS, num_envs=st.integers(1, 3), bounds=st.sampled_from(["rescale", "clip", "tanh"]))
def test_a_right_one_trains_and_evaluates_like_one_with_fresh_arrays(plan, num_envs, bounds):
    bounds = "clip" if math.isinf(plan.high - plan.low) else bounds
    outcomes = []
    for one in (plan, replace(plan, reused=not plan.reused)):
        settings = {**SMALL, "num_envs": num_envs, "action_bounds": bounds, "eval_max_episode_steps": ROLLOUT}
        model = R2VPO(lambda one=one: Generated(one), **settings).learn(num_envs * ROLLOUT)
        weights = torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])
        assert torch.isfinite(weights).all()
        result = model.evaluate(2)
        assert result.lengths == [min(plan.length or ROLLOUT, ROLLOUT)] * 2
        outcomes.append((weights.tolist(), model.episodes.returns, result))
        model.close()
    assert outcomes[0] == outcomes[1]
    assert len(outcomes[0][1]) == (0 if plan.length is None else num_envs * (ROLLOUT // plan.length))


NO_OBSERVATIONS = [
    gym.spaces.Discrete(3),
    gym.spaces.MultiBinary(2),
    gym.spaces.MultiDiscrete([2, 3]),
    gym.spaces.Text(3),
    gym.spaces.Dict(a=Box(-1, 1, (2,))),
    gym.spaces.Tuple([Box(-1, 1, (2,))]),
    gym.spaces.Sequence(Box(-1, 1, (2,))),
    Box(-1, 1, (0,)),
    Box(0, 255, (4, 0, 3), np.uint8),
    None,
    (2,),
    "Box",
]
NO_ACTIONS = [*NO_OBSERVATIONS, Box(0, 9, (2,), np.int64), Box(0, 1, (2,), bool)]


@pytest.mark.parametrize(("field", "wrong"), [("observation_space", NO_OBSERVATIONS), ("action_space", NO_ACTIONS)])
@given(data=st.data(), plan=PLANS)
def test_a_space_that_no_policy_has_is_refused(refused, field, wrong, data, plan):
    space = data.draw(st.sampled_from(wrong))
    env = Generated(plan)
    setattr(env, field, space)
    with pytest.raises(ConfigError) as caught:
        R2VPO(env)
    assert caught.value.field == field
    refused(caught.value, field, space, names="(in Generated)")


@given(data=st.data(), dtype=st.sampled_from(["float32", "float64"]))
def test_bounds_that_a_setting_cannot_have_are_refused(refused, data, dtype):
    kind = data.draw(st.sampled_from(["tanh", "rescale"]))
    most = float(np.finfo(dtype).max)
    wide = st.floats(2.0**104, most, width=np.dtype(dtype).itemsize * 8)
    high = data.draw(wide | st.just(math.inf) if kind == "tanh" else wide)
    low = data.draw(st.sampled_from([-1.0, 0.0, -most]))
    with pytest.raises(ConfigError) as caught:
        R2VPO(Generated(Plan(low=low, high=high, action_dtype=dtype)), action_bounds=kind)
    assert caught.value.field == "action_bounds"
    refused(caught.value, kind, dtype, low, high, names="Box(")


@given(
    made=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.lists(st.integers(), max_size=2)
    | st.sampled_from([Generated, gym.Env, np.zeros(2), gym.spaces.Discrete(2)])
)
def test_a_function_that_makes_something_else_is_refused(refused, made):
    def maker():
        return made

    with pytest.raises(ConfigError) as caught:
        R2VPO(maker)
    refused(caught.value, "made", made, names="env='maker'")


@given(error=st.sampled_from([error for error in ERRORS if isinstance(error, Exception)]))
def test_a_function_that_raises_is_refused(refused, error):
    def maker():
        raise error

    with pytest.raises(ConfigError) as caught:
        R2VPO(maker)
    refused(caught.value, "raised", error, names="env='maker' is not allowed: env must be a Gymnasium id")
    assert type(error).__name__ in str(caught.value)


def raising(answer):
    raise Unpicklable(1, 2)


@pytest.mark.parametrize("fault", [Fault("observation", np.zeros(7), 2, 3), Fault("answer", raising, 1, 0)])
def test_a_process_of_its_own_tells_the_same(refused, fault):
    numbers = itertools.count()
    model = R2VPO(lambda: Generated(Plan(), fault if next(numbers) else None), num_envs=2, overlap=True, **SMALL)
    where = f"step {fault.steps} of its episode" if fault.steps else "reset"
    with pytest.raises(EnvironmentFailure, match=rf"environment \d of 2 \(<lambda>\) \w+ in {where}") as caught:
        model.learn(2 * ROLLOUT)
    model.close()
    refused(caught.value, "process", fault)
