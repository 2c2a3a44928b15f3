"""One evaluation protocol for all, and the curve of the training episodes."""

import numpy as np

from r2vpo.control.evaluation import EpisodeLog, evaluate_policy


def test_curve_windows_by_hand():
    log = EpisodeLog()
    for step, value in ((30, 1.0), (50, 3.0), (51, 5.0), (90, 7.0)):
        log.add(step, value)
    steps, returns = log.curve(total_steps=100, points=4)
    assert steps == [25, 50, 75, 100]
    assert returns == [None, 2.0, 5.0, 7.0]
    log.add(104, 9.0)  # the last rollout may end beyond the budget
    assert log.curve(100, 4)[1][-1] == 8.0
    assert EpisodeLog().curve(100, 2)[1] == [None, None]


def test_every_evaluation_environment_contributes_its_first_episode():
    result = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert result.lengths == [200] * 4
    assert len(set(result.returns)) == 4
    again = evaluate_policy(lambda observations: np.zeros((len(observations), 1)), "Pendulum-v1", 4, seed=0)
    assert again == result
