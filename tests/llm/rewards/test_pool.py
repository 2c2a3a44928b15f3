"""Verifier processes: order, limits, deaths from outside and inside, and nothing left behind."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from r2vpo.errors import ConfigError, RewardError
from r2vpo.llm.rewards.verifier.pool import FAILED_STARTS, Verdict, VerifierPool

pytest.importorskip("math_verify")

SLACK = 20.0
"""Seconds that starting workers on a busy machine may take; a hang takes longer."""
TOWER = "\\boxed{9^{9^{9^9}}}"
"""Holds the interpreter lock in one C call for hours: no thread or signal handler of the worker runs meanwhile."""


def easy(answer, truth=None):
    return {"completion": f"\\boxed{{{answer}}}", "ground_truth": str(answer if truth is None else truth)}


HARD = {"completion": TOWER, "ground_truth": "5"}


def gone(pid):
    """Whether no process of that id runs; a zombie nobody has collected yet does not run."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(condition, seconds=SLACK):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.fixture(scope="module")
def pool():
    with VerifierPool(workers=2, timeout_seconds=10.0) as made:
        made.run("math_verify", [easy(1), easy(2)])
        yield made


def test_verdicts_keep_the_order_of_the_items(pool):
    items = [easy(i, truth=i if i % 3 else i + 1) for i in range(60)]
    verdicts = pool.run("math_verify", items)
    assert [verdict.value for verdict in verdicts] == [float(i % 3 != 0) for i in range(60)]
    assert len(pool.worker_pids()) == 2


def test_no_items_need_no_worker():
    with VerifierPool() as unused:
        assert unused.run("math_verify", []) == []
        assert unused.worker_pids() == []


def test_a_request_larger_than_a_pipe(pool):
    (verdict,) = pool.run("math_verify", [{"completion": "word " * 100_000 + "\\boxed{5}", "ground_truth": "5"}])
    assert verdict.value == 1.0


def test_a_time_out_is_no_verdict_and_costs_the_others_nothing():
    with VerifierPool(workers=2, timeout_seconds=1.0) as small:
        start = time.monotonic()
        verdicts = small.run("math_verify", [easy(1), HARD, *(easy(i) for i in range(20))])
        assert time.monotonic() - start < 1.0 + SLACK
        assert verdicts[1] == Verdict(None, "time-out")
        assert [v.value for i, v in enumerate(verdicts) if i != 1] == [1.0] * 21


def busy_worker(pool, index):
    assert wait_until(lambda: any(worker.index == index for worker in pool._live))
    return next(worker.pid for worker in pool._live if worker.index == index)


def in_thread(function):
    result = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    return thread, result


def test_a_killed_busy_worker_loses_its_item_only():
    with VerifierPool(workers=2, timeout_seconds=120.0) as patient:
        start = time.monotonic()
        thread, result = in_thread(lambda: patient.run("math_verify", [HARD, *(easy(i) for i in range(20))]))
        pid = busy_worker(patient, 0)
        os.kill(pid, signal.SIGKILL)
        thread.join(SLACK)
        assert result, "the call hangs"
        assert time.monotonic() - start < SLACK  # and not the 120 s of the limit
        assert result[0][0] == Verdict(None, "killed")
        assert [verdict.value for verdict in result[0][1:]] == [1.0] * 20
        assert pid not in patient.worker_pids()
        assert patient.run("math_verify", [easy(7)])[0].value == 1.0


def test_a_stopped_worker_times_out():
    with VerifierPool(workers=1, timeout_seconds=1.0) as small:
        small.run("math_verify", [easy(1)])
        (pid,) = small.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        assert small.run("math_verify", [easy(1)]) == [Verdict(None, "time-out")]
        assert gone(pid)
        assert small.run("math_verify", [easy(1)])[0].value == 1.0


def test_idle_workers_that_were_killed_are_replaced_before_they_get_an_item(pool):
    before = pool.worker_pids()
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert wait_until(lambda: all(gone(pid) for pid in before))
    assert [verdict.value for verdict in pool.run("math_verify", [easy(1), easy(2)])] == [1.0, 1.0]
    assert not set(before) & set(pool.worker_pids())


def test_a_call_that_fails_leaves_no_reply_for_the_next(pool):
    with pytest.raises(TypeError):
        pool.run("math_verify", [easy(1), {"completion": object(), "ground_truth": "1"}])
    assert [verdict.value for verdict in pool.run("math_verify", [easy(1, 2), easy(3)])] == [0.0, 1.0]


def test_calls_from_several_threads_do_not_mix(pool):
    calls = [in_thread(lambda n=n: pool.run("math_verify", [easy(i, i + n % 2) for i in range(10)])) for n in range(4)]
    for n, (thread, result) in enumerate(calls):
        thread.join(SLACK)
        assert [verdict.value for verdict in result[0]] == [float(n % 2 == 0)] * 10


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_starts_workers_of_its_own(pool):
    pool.run("math_verify", [easy(1)])
    mine = pool.worker_pids()
    child = os.fork()
    if child == 0:
        right = pool.run("math_verify", [easy(1), easy(2, 3)]) == [Verdict(1.0), Verdict(0.0)]
        own = not set(pool.worker_pids()) & set(mine)
        pool.close()
        os._exit(0 if right and own else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.run("math_verify", [easy(1)])[0].value == 1.0
    assert pool.worker_pids()[0] == mine[0]


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_pool_that_ends_takes_its_workers_along(end):
    ending = VerifierPool(workers=2)
    ending.run("math_verify", [easy(1), easy(2)])
    pids = ending.worker_pids()
    assert pids
    if end == "close":
        ending.close()
        ending.close()
        with pytest.raises(RewardError, match="closed"):
            ending.run("math_verify", [easy(1)])
    else:
        del ending
        gc.collect()
    assert all(gone(pid) for pid in pids)


PARENT = f"""
import threading, time
from r2vpo.llm.rewards.verifier.pool import VerifierPool
pool = VerifierPool(workers=2, timeout_seconds=1.5)
easy = {{"completion": "1", "ground_truth": "1"}}
while len(pool.worker_pids()) < 2 or not all(worker.ready for worker in pool._live):
    pool.run("math_verify", [easy] * 8)
threading.Thread(target=pool.run, args=("math_verify", [{{"completion": {TOWER!r}, "ground_truth": "5"}}])).start()
while not any(worker.index == 0 for worker in pool._live):
    time.sleep(0.01)
print(*pool.worker_pids(), flush=True)
time.sleep(600)
"""


def test_a_parent_killed_with_9_leaves_no_worker_behind():
    """One worker is idle and sees the pipe close; one is busy in C and is ended by its own timer."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    try:
        pids = [int(word) for word in parent.stdout.readline().split()]
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert len(pids) == 2
    assert wait_until(lambda: all(gone(pid) for pid in pids), 1.5 + 2.0 + 10.0)


def test_workers_that_cannot_start_are_an_error_and_no_endless_loop(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    start = time.monotonic()
    with VerifierPool(workers=2) as broken, pytest.raises(RewardError, match="do not start"):
        broken.run("math_verify", [easy(1)])
    assert time.monotonic() - start < SLACK
    assert FAILED_STARTS == 3


def test_a_worker_that_is_slow_to_start_is_given_up():
    with VerifierPool(workers=1, start_seconds=0.001) as slow, pytest.raises(RewardError, match="do not start"):
        slow.run("math_verify", [easy(1)])


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"workers": 0}, "workers"),
        ({"timeout_seconds": -1.0}, "timeout_seconds"),
        ({"timeout_seconds": float("nan")}, "timeout_seconds"),
        ({"memory_bytes": 2**20}, "memory_bytes"),
        ({"checks": ()}, "checks"),
        ({"checks": ("os.system",)}, "checks"),
    ],
)
def test_settings_outside_their_range(settings, field):
    with pytest.raises(ConfigError) as caught:
        VerifierPool(**settings)
    assert caught.value.field == field


def test_a_pool_runs_only_the_checks_it_was_made_with(pool):
    with pytest.raises(ConfigError, match=r"'reasoning_gym'.*math_verify"):
        pool.run("reasoning_gym", [])
