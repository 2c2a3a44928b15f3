"""Aggregates over tasks: by hand, by brute force, and beside rliable."""

import itertools

import numpy as np
import pytest
from scipy import stats

from r2vpo.runs import stats as aggregate


def scores(seed=0, runs=(10, 10, 10), shift=0.0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0.6 + shift + 0.1 * task, 0.4, count) for task, count in enumerate(runs)]


def test_interquartile_mean_by_hand():
    assert aggregate.interquartile_mean([4.0, 100.0, -50.0, 2.0]) == 3.0
    assert aggregate.interquartile_mean([1.0, 2.0, 6.0]) == 3.0  # a quarter of three, rounded down, is none
    assert np.isnan(aggregate.interquartile_mean([1.0, 2.0, 3.0, np.nan]))
    values = np.random.default_rng(0).normal(size=(3, 11))
    np.testing.assert_allclose(aggregate.interquartile_mean(values), stats.trim_mean(values, 0.25, axis=-1), rtol=1e-14)


def test_aggregates_of_two_tasks_by_hand():
    tasks = [np.array([0.0, 1.0]), np.array([0.5, 2.5])]
    assert aggregate.aggregate_iqm(tasks) == 0.75  # of 0, 0.5, 1, 2.5 the middle two
    assert aggregate.aggregate_mean(tasks) == 1.0  # of 0.5 and 1.5
    assert aggregate.aggregate_median([*tasks, np.array([9.0])]) == 1.5  # of 0.5, 1.5, 9
    assert aggregate.optimality_gap(tasks) == 0.375  # of 1, 0, 0.5, 0
    assert aggregate.optimality_gap(tasks, gamma=2.0) == 2.0 - (0.5 + 1.25) / 2
    profile = aggregate.performance_profile(tasks, [-1.0, 0.0, 0.5, 2.5])
    assert profile.tolist() == [1.0, 0.75, 0.5, 0.0]  # above, not at


def test_tasks_count_the_same_whatever_their_number_of_runs():
    tasks = [np.zeros(3), np.ones(1)]
    assert aggregate.aggregate_mean(tasks) == aggregate.optimality_gap(tasks) == 0.5
    assert aggregate.performance_profile(tasks, [0.5]).tolist() == [0.5]


def test_probability_of_improvement_counts_ties_half():
    x, y = [np.array([1.0, 2.0])], [np.array([1.0, 0.0, 3.0])]
    # 1 against 1, 0, 3: a tie, a win, a loss. 2: two wins, a loss.
    assert aggregate.probability_of_improvement(x, y) == pytest.approx((0.5 + 1 + 2) / 6)
    assert aggregate.improvement_probabilities(x, x).tolist() == [0.5]
    both = aggregate.improvement_probabilities([*x, np.array([5.0])], [*y, np.array([4.0, 4.5])])
    assert both.tolist() == pytest.approx([3.5 / 6, 1.0])


def test_probability_of_improvement_is_one_minus_the_other_way_round():
    x, y = scores(1), scores(2, runs=(4, 7, 10))
    assert aggregate.probability_of_improvement(x, y) == pytest.approx(1 - aggregate.probability_of_improvement(y, x))


def test_one_call_for_all_resamples_is_a_call_for_each():
    x, y = (aggregate.resample(scores(seed), 5, np.random.default_rng(seed)) for seed in (1, 2))
    for statistic in (aggregate.aggregate_iqm, aggregate.aggregate_median, aggregate.optimality_gap):
        each = [statistic([task[i] for task in x]) for i in range(5)]
        np.testing.assert_array_equal(statistic(x), each)
    each = [aggregate.probability_of_improvement([t[i] for t in x], [t[i] for t in y]) for i in range(5)]
    np.testing.assert_array_equal(aggregate.probability_of_improvement(x, y), each)
    taus = [0.2, 0.9]
    each = [aggregate.performance_profile([task[i] for task in x], taus) for i in range(5)]
    np.testing.assert_array_equal(aggregate.performance_profile(x, taus), each)


def test_resamples_stay_within_their_task():
    drawn = aggregate.resample([np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])], 200, np.random.default_rng(0))
    assert [task.shape for task in drawn] == [(200, 2), (200, 3)]
    assert [set(np.unique(task)) for task in drawn] == [{1.0, 2.0}, {10.0, 20.0, 30.0}]


def test_interval_is_the_quantile_of_every_possible_resample():
    tasks = [np.array([0.0, 1.0, 3.0]), np.array([2.0, 7.0])]
    means = [
        (np.mean(first) + np.mean(second)) / 2
        for first in itertools.product(tasks[0], repeat=3)
        for second in itertools.product(tasks[1], repeat=2)
    ]
    low, high = aggregate.stratified_interval(aggregate.aggregate_mean, [tasks], 40_000)
    exact = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([low, high], exact, atol=0.1)
    assert aggregate.stratified_interval(aggregate.aggregate_mean, [tasks], 40_000) == (low, high)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for seed in range(200):
        low, high = aggregate.stratified_interval(aggregate.aggregate_mean, [scores(seed)], 400)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_steps_to_reach_by_hand():
    steps = [10, 20, 30]
    curves = [[0.0, 5.0, 4.0], [np.nan, 1.0, 2.0], [9.0, 0.0, 0.0]]
    assert aggregate.steps_to_reach(steps, curves, 4.0).tolist() == [20.0, np.inf, 10.0]


def test_resampled_curves_draw_whole_seeds_and_keep_gaps():
    curves = np.array([[np.nan, 1.0, 1.0], [0.0, 2.0, 2.0]])
    drawn = aggregate.resample_curves(curves, 300)
    assert drawn.shape == (300, 3)
    assert np.isnan(drawn[:, 0]).all()
    np.testing.assert_array_equal(drawn[:, 1], drawn[:, 2])
    assert set(np.unique(drawn[:, 1])) == {1.0, 1.5, 2.0}


@pytest.fixture
def rliable():
    pytest.importorskip("rliable", reason="needs rliable 1.2.0 with arch < 8 and pandas < 3")
    from rliable import library, metrics

    return library, metrics


def matrix(tasks):
    return np.stack(tasks, axis=1)


def test_point_estimates_are_those_of_rliable(rliable):
    library, metrics = rliable
    x, y = scores(1), scores(2, shift=-0.2)
    y[0][:3] = x[0][:3]  # ties
    theirs = {
        metrics.aggregate_iqm: aggregate.aggregate_iqm,
        metrics.aggregate_median: aggregate.aggregate_median,
        metrics.aggregate_mean: aggregate.aggregate_mean,
        metrics.aggregate_optimality_gap: aggregate.optimality_gap,
    }
    for their, our in theirs.items():
        assert our(x) == pytest.approx(their(matrix(x)), abs=1e-12)
    probability = metrics.probability_of_improvement(matrix(x), matrix(y))
    assert aggregate.probability_of_improvement(x, y) == pytest.approx(probability, abs=1e-12)
    taus = np.linspace(-1.0, 2.0, 31)
    profile = [library.run_score_deviation(matrix(x), tau) for tau in taus]
    np.testing.assert_allclose(aggregate.performance_profile(x, taus), profile, atol=1e-12)


def test_intervals_are_close_to_those_of_rliable(rliable):
    library, metrics = rliable
    x, y = scores(1), scores(2, shift=-0.2)
    _, theirs = library.get_interval_estimates(
        {"x": matrix(x)}, lambda s: np.array([metrics.aggregate_iqm(s), metrics.aggregate_optimality_gap(s)]), reps=4000
    )
    for i, statistic in enumerate((aggregate.aggregate_iqm, aggregate.optimality_gap)):
        ours = aggregate.stratified_interval(statistic, [x], 20_000)
        np.testing.assert_allclose(ours, theirs["x"][:, i], atol=0.02)
    _, theirs = library.get_interval_estimates(
        {"pair": (matrix(x), matrix(y))}, lambda a, b: np.array([metrics.probability_of_improvement(a, b)]), reps=1000
    )
    ours = aggregate.stratified_interval(aggregate.probability_of_improvement, [x, y], 20_000)
    np.testing.assert_allclose(ours, theirs["pair"][:, 0], atol=0.03)


def test_bootstrap_interval_covers_the_mean_of_normal_data():
    rng = np.random.default_rng(0)
    samples = rng.normal(3.0, 1.0, (60, 40))
    intervals = np.array([aggregate.bootstrap_interval(sample, np.mean) for sample in samples])
    covered = ((intervals[:, 0] <= 3.0) & (intervals[:, 1] >= 3.0)).mean()
    assert 0.85 <= covered <= 1.0
    student = np.array([stats.t.interval(0.95, 39, s.mean(), stats.sem(s)) for s in samples])
    assert np.ptp(intervals, axis=1).mean() == pytest.approx(np.ptp(student, axis=1).mean(), rel=0.1)


def test_summary_of_equal_scores_is_a_point():
    assert aggregate.summarise([2.0, 2.0]) == {
        "mean": 2.0,
        "mean_interval": [2.0, 2.0],
        "iqm": 2.0,
        "iqm_interval": [2.0, 2.0],
    }
