"""pass@k: equal to counting all subsets, stable at sizes where binomials overflow, intervals that cover."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from r2vpo.llm.evaluation.tally import estimate_mean, estimate_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_equals_counting_every_subset(n):
    for solved in range(n + 1):
        answers = [i < solved for i in range(n)]
        for k in range(1, n + 1):
            subsets = list(combinations(answers, k))
            assert pass_at_k(n, solved, k) == pytest.approx(np.mean([any(s) for s in subsets]), abs=1e-14)


@pytest.mark.parametrize(("n", "solved", "k"), [(10_000, 1, 100), (10_000, 3, 1), (5_000, 40, 8), (1_000_000, 2, 1)])
def test_is_exact_where_binomials_do_not_fit_a_float(n, solved, k):
    exact = 1 - Fraction(math.comb(n - solved, k), math.comb(n, k))
    assert pass_at_k(n, solved, k) == pytest.approx(float(exact), rel=1e-12)


def test_pass_at_1_is_the_fraction_of_right_answers():
    assert pass_at_k(16, 5, 1) == pytest.approx(5 / 16, rel=1e-14)


def test_is_unbiased():
    """Its mean over experiments of 6 answers is 1 - (1 - p)^k, unlike 1 - (1 - c/n)^k."""
    p, n, k = 0.3, 6, 4
    solved = np.random.default_rng(0).binomial(n, p, 20_000)
    truth = 1 - (1 - p) ** k
    assert np.mean([pass_at_k(n, int(c), k) for c in solved]) == pytest.approx(truth, abs=0.01)
    assert abs(np.mean(1 - (1 - solved / n) ** k) - truth) > 0.03


@pytest.mark.parametrize(("n", "solved", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0), (0, 0, 1)])
def test_counts_without_a_meaning_are_refused(n, solved, k):
    with pytest.raises(ValueError, match="pass@k needs"):
        pass_at_k(n, solved, k)


def test_problems_with_too_few_verdicts_are_left_out_and_counted():
    estimate = estimate_pass_at_k([4, 4, 1, 0], [4, 0, 1, 0], k=2)
    assert (estimate.value, estimate.problems) == (0.5, 2)
    nothing = estimate_pass_at_k([1], [1], k=2)
    assert (nothing.value, nothing.low, nothing.high, nothing.problems) == (None, None, None, 0)


def test_interval_covers_and_repeats():
    rng = np.random.default_rng(1)
    estimates = [estimate_mean(rng.binomial(8, 0.4, 50) / 8) for _ in range(40)]
    covered = np.mean([e.low <= 0.4 <= e.high for e in estimates])
    assert 0.8 <= covered <= 1.0
    assert all(0.05 < e.high - e.low < 0.15 for e in estimates)  # 2 * 1.96 * 0.173 / sqrt(50) = 0.096
    assert estimate_mean([0.0, 1.0, 1.0]) == estimate_mean([0.0, 1.0, 1.0])


def test_large_benchmarks_fit_in_memory_piecewise():
    values = np.random.default_rng(2).binomial(1, 0.5, 20_000).astype(float)
    estimate = estimate_mean(values)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.5 / math.sqrt(20_000), rel=0.1)
