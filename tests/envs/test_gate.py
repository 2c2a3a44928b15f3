"""What environments return is checked: what is wrong is named, and what is right in another form is taken."""

import gymnasium as gym
import numpy as np
import pytest
from small_envs import IdentityEnv

from r2vpo.control.evaluation import evaluate_policy
from r2vpo.envs.gate import LARGEST, Gate, held
from r2vpo.envs.vector import VectorEnv
from r2vpo.errors import ConfigError, EnvironmentFailure, TrainingDiverged

RIGHT = np.zeros(2, np.float32), 1.0, False, False, {}


class Answering(IdentityEnv):
    """Answers as it is told, from its third step on or in its reset."""

    def __init__(self, step=None, reset=None):
        super().__init__()
        self.answer, self.first, self.taken = step, reset, 0

    def reset(self, *, seed=None, options=None):
        usual = super().reset(seed=seed)
        return usual if self.first is None else self.first

    def step(self, action):
        self.taken += 1
        usual = super().step(action)
        return usual if self.answer is None or self.taken < 3 else self.answer


def step(**others):
    names = ("observation", "reward", "terminated", "truncated", "info")
    return tuple(others.get(name, value) for name, value in zip(names, RIGHT, strict=True))


WRONG_STEPS = [
    ((np.zeros(2), 1.0, False, {}), "a tuple of 4 .*as before Gymnasium 0.26; five values are needed"),
    ((*RIGHT, None), "a tuple of 6"),
    (np.zeros(5), r"an array of shape \(5,\) and dtype float64; five values"),
    (step(observation=np.zeros(1)), r"an array of shape \(1,\) and dtype float64 as its observation; .*Box.*\(2,\)"),
    (step(observation=np.zeros(3)), r"an array of shape \(3,\) .* as its observation"),
    (step(observation=np.zeros((1, 2))), r"an array of shape \(1, 2\) .* as its observation"),
    (step(observation={"x": 1.0}), "a dict as its observation"),
    (step(observation=None), "a NoneType as its observation"),
    (step(observation=0.5), r"'0.5' \(float\) as its observation"),
    (step(observation=np.array(["a", "b"])), "dtype <U1 as its observation"),
    (step(observation=np.zeros(2, complex)), "dtype complex128 as its observation"),
    (step(observation=[0.0, [1.0]]), "a list of 2 .float, list. as its observation"),
    (step(observation=np.array([0.0, np.nan])), r"an observation that is not finite: \[ 0. nan\]"),
    (step(observation=np.array([1e39, 0.0])), r"an observation that is not within what float32 holds"),
    (step(observation=np.array([0.0, -np.inf]), terminated=True), "a final observation that is not finite"),
    (step(reward=np.ones(2)), r"an array of shape \(2,\) and dtype float64 as its reward; one number"),
    (step(reward=[1.0]), "a list of 1 .float. as its reward"),
    (step(reward=None), "a NoneType as its reward"),
    (step(reward="1"), r"'1' \(str\) as its reward"),
    (step(reward=1j), "a complex as its reward"),
    (step(reward=10**400), "as its reward"),
    (step(reward=float("nan")), "a reward that is not finite: nan"),
    (step(reward=np.float64(-1e39)), "a reward that is not within what float32 holds: -1e"),
    (step(terminated=None), "a NoneType as terminated; True or False"),
    (step(terminated=0.5), r"'0.5' \(float\) as terminated"),
    (step(terminated=2), r"'2' \(int\) as terminated"),
    (step(truncated={}), "a dict as truncated"),
    (step(truncated=np.array([True, False])), r"an array of shape \(2,\) and dtype bool as truncated"),
    (step(truncated="False"), r"'False' \(str\) as truncated"),
    (step(info=None), "a NoneType as its info; a dictionary"),
    ((np.zeros(2), 1.0, False, {}, False), "a dict as truncated"),
]
WRONG_RESETS = [
    (np.zeros(2, np.float32), r"an array of shape \(2,\) .* alone, as before Gymnasium 0.26; a pair is needed"),
    ([0.1, 0.2], r"'0.2' \(float\) as its info"),
    ((np.zeros(2), {}, None), "a tuple of 3"),
    ({"observation": np.zeros(2)}, "a dict; a pair"),
    ((np.zeros(1), {}), r"an array of shape \(1,\) .* as its observation"),
    ((np.full(2, np.inf), {}), "an observation that is not finite"),
    ((np.full(2, 1e300), {}), "an observation that is not within"),
    ((np.zeros(2), None), "a NoneType as its info"),
]


@pytest.mark.parametrize(("answer", "said"), WRONG_STEPS)
def test_a_wrong_step_is_named_with_environment_and_step(answer, said):
    made = iter([Answering(), Answering(answer)])
    envs = VectorEnv(lambda: next(made), 2)
    envs.reset(0)
    envs.step(np.zeros((2, 2)))
    envs.step(np.zeros((2, 2)))
    with pytest.raises(EnvironmentFailure, match=rf"^environment 1 of 2 \(<lambda>\) returned in step 3 .*{said}"):
        envs.step(np.zeros((2, 2)))


@pytest.mark.parametrize(("answer", "said"), WRONG_RESETS)
def test_a_wrong_reset_is_named_with_environment(answer, said):
    made = iter([Answering(), Answering(reset=answer)])
    with pytest.raises(EnvironmentFailure, match=rf"^environment 1 of 2 \(<lambda>\) returned in reset .*{said}"):
        VectorEnv(lambda: next(made), 2).reset(0)


@pytest.mark.parametrize(("answer", "said"), [WRONG_STEPS[3], WRONG_STEPS[12], WRONG_STEPS[15], WRONG_STEPS[29]])
def test_evaluation_checks_the_same(answer, said):
    with pytest.raises(EnvironmentFailure, match=rf"environment 0 of 1 \(Answering\) returned in step 3 .*{said}"):
        evaluate_policy(np.asarray, Answering(answer), 1, seed=0)


@pytest.mark.parametrize(
    "answer",
    [
        step(observation=[0.0, 0.0]),
        step(observation=np.zeros(2, np.int8)),
        step(observation=np.zeros(2, bool)),
        step(reward=1),
        step(reward=np.float32(1.0)),
        step(reward=np.int64(1)),
        step(reward=True),
        step(reward=np.ones(())),
        step(reward=np.ones((1, 1), np.float16)),
        step(terminated=np.False_, truncated=np.bool_(False)),
        step(terminated=0, truncated=np.int64(0)),
        step(terminated=np.array(False), truncated=np.zeros(1, bool)),
        list(RIGHT),
    ],
)
def test_other_forms_of_the_same_answer_are_taken(answer):
    gate = Gate(Answering(answer), "task")
    gate.reset(0)
    for _ in range(3):
        observation, reward, terminated, truncated, info = gate.step(np.zeros(2))
    assert np.asarray(observation).tolist() == [0.0, 0.0]
    assert (reward, terminated, truncated, info) == (1.0, False, False, {})
    assert [type(value) for value in (reward, terminated, truncated)] == [float, bool, bool]


def test_flags_that_are_true_end_the_episode():
    for yes in (True, np.True_, 1, np.array([True])):
        gate = Gate(Answering(step(terminated=yes, truncated=yes)), "task")
        gate.reset(0)
        assert [gate.step(np.zeros(2))[2:4] for _ in range(3)][-1] == (True, True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble, np.int64, np.uint8, bool])
def test_what_float32_holds(dtype):
    assert held(np.ones((3, 2), dtype))
    assert held(np.array([], dtype))
    if np.issubdtype(dtype, np.floating):
        assert not held(np.array([1.0, np.nan], dtype))
        assert not held(np.array([-np.inf, 1.0], dtype))
        assert held(np.full(3, np.finfo(dtype).max if dtype in (np.float16, np.float32) else 1e30, dtype))
    if dtype in (np.float64, np.longdouble):
        assert held(np.array([LARGEST, -LARGEST], dtype))
        assert not held(np.array([1.001 * LARGEST], dtype))
        assert not held(np.array([1.0, 1e300], dtype))


def test_an_action_that_is_not_finite_is_the_fault_of_the_policy():
    envs = VectorEnv(Answering, 2)
    envs.reset(0)
    with pytest.raises(TrainingDiverged, match=r"policy's action for environment 1 of 2 \(Answering\) is not finite"):
        envs.step(np.array([[0.0, 0.0], [0.0, np.nan]]))
    with pytest.raises(TrainingDiverged, match="policy's action for environment 0 of 1"):
        evaluate_policy(lambda rows: np.full((len(rows), 2), np.inf), Answering(), 1, seed=0)


def test_the_step_in_a_message_survives_saving():
    envs, other = VectorEnv(IdentityEnv, 1), VectorEnv(lambda: Answering(RIGHT[:4]), 1)
    for one in (envs, other):
        one.reset(0)
    for _ in range(4):
        envs.step(np.zeros((1, 2)))
    other.load_state_dict(envs.state_dict())
    other.gates[0].env.answer, other.gates[0].env.taken = RIGHT[:4], 7
    with pytest.raises(EnvironmentFailure, match="in step 5 of its episode"):
        other.step(np.zeros((1, 2)))


def test_environments_of_different_spaces_are_refused():
    class Wider(IdentityEnv):
        action_space = gym.spaces.Box(-2.0, 2.0, (2,), np.float32)

    made = iter([IdentityEnv(), Wider()])
    with pytest.raises(ConfigError, match=r"environments have one space, not Box\(-1.*and Box\(-2"):
        VectorEnv(lambda: next(made), 2)


@pytest.mark.parametrize("envs", [[], [IdentityEnv()] * 2])
def test_an_evaluation_takes_environments_once_each(envs):
    with pytest.raises(ConfigError, match="at least one environment, and none of them twice"):
        evaluate_policy(np.asarray, envs, 4, seed=0)


def test_what_info_says_of_success_is_checked_too():
    def playing(success):
        answer = step(terminated=True, info={"is_success": success})
        return evaluate_policy(np.asarray, Answering(answer), 1, seed=0).successes

    assert [playing(success) for success in (True, np.float32(0.0), 1, np.array([True]))] == [
        [True],
        [False],
        [True],
        [True],
    ]
    for success in ("yes", None, np.array([True, False])):
        with pytest.raises(
            EnvironmentFailure, match=r"\(Answering\) returned in step 3 .* as is_success; True or False"
        ):
            playing(success)


def test_an_environment_that_cannot_be_closed_loses_nothing():
    class Stuck(IdentityEnv):
        closed = 0

        def close(self):
            type(self).closed += 1
            raise RuntimeError("the window is gone")

    with pytest.warns(UserWarning, match=r"Stuck raised in close: RuntimeError\('the window is gone'\)"):
        assert evaluate_policy(np.asarray, Stuck, 2, seed=0).lengths == [10, 10]
    with pytest.warns(UserWarning, match="raised in close"):
        VectorEnv(Stuck, 3).close()
    assert Stuck.closed == 5
