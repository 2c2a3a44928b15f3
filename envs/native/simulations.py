"""N simulations of one MuJoCo model, stepped together and read as arrays of N rows, and what a task makes of them."""

from __future__ import annotations

import functools
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, ClassVar

import numpy as np

from r2vpo.processes import usable_cores

Failure = tuple[int, Exception]
"""The index whose call raised, and what it raised."""


class WorkerPool:
    """Runs a function over 0 ... count - 1 on ``threads`` threads.

    Worth it only for functions that release the interpreter's lock, as MuJoCo's do. ``concurrent.futures`` does the
    same and takes 20 us a call to do so, which is what one environment needs for its physics.

    Args:
        threads: Threads that work, the caller's included; 1 starts none.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._jobs: SimpleQueue = SimpleQueue()
        for _ in range(threads - 1):
            threading.Thread(target=_serve, args=(self._jobs,), name="r2vpo-native", daemon=True).start()
        # Also runs when the pool is garbage collected: the threads hold the queue, never the pool.
        self.close = weakref.finalize(self, _stop, self._jobs, threads - 1)

    def run(self, function: Callable[[int], None], count: int) -> Failure | None:
        """Call ``function(i)`` once for every i and wait for all of them.

        Returns:
            A failure, or None. A thread that fails takes no further indices.
        """
        if self.threads == 1:
            return _work(function, range(count))
        # One iterator for all threads: whoever is free takes the next index. Under the interpreter's lock, taking
        # it is atomic.
        indices = iter(range(count))
        helpers = min(self.threads, count) - 1
        if helpers == 0 or not self.close.alive:
            return _work(function, indices)
        # A new queue per call: what an interrupted call (Ctrl-C) leaves behind cannot be taken for this one's.
        done: SimpleQueue = SimpleQueue()
        for _ in range(helpers):
            self._jobs.put((function, indices, done))
        failures = [_work(function, indices)] + [done.get() for _ in range(helpers)]
        return next((failure for failure in failures if failure), None)


def default_threads(num_envs: int) -> int:
    """Threads for N environments: one for every four of them, and no more than there are usable cores."""
    return max(1, min(usable_cores(), num_envs // 4))


def _work(function: Callable[[int], None], indices: Iterable[int]) -> Failure | None:
    for i in indices:
        try:
            function(i)
        except Exception as error:
            return i, error
    return None


def _serve(jobs: SimpleQueue) -> None:
    while True:
        job = jobs.get()
        if job is None:
            return
        function, indices, done = job
        done.put(_work(function, indices))
        # Waiting for the next job with these in hand would keep the environments alive for ever.
        del job, function, indices, done


def _stop(jobs: SimpleQueue, count: int) -> None:
    for _ in range(count):
        jobs.put(None)


class Simulations:
    """One ``MjData`` for each environment, all on one model.

    ``mujoco.rollout`` looks made for this and cannot be used: it neither returns the solver's warm start nor the
    quantities that rewards read from inside the last substep, so that its trajectories leave Gymnasium's.
    ``mujoco.batch``, new in MuJoCo 4, is exact but leaves ``cfrc_ext`` out, and was no faster. Here each simulation
    gets the very calls that Gymnasium makes, which is what keeps the two equal bit for bit.

    Args:
        model: ``MjModel``, shared; stepping does not change it.
        count: N.
        threads: Threads that step; they have no influence on the results.
        contact_forces: Also fill ``cfrc_ext`` after each step, at a cost.
    """

    def __init__(self, model: Any, count: int, threads: int = 1, contact_forces: bool = False) -> None:
        import mujoco

        self.model = model
        self.datas = [mujoco.MjData(model) for _ in range(count)]
        self._step, self._contact_forces = mujoco.mj_step, mujoco.mj_rnePostConstraint if contact_forces else None
        self._workers = WorkerPool(threads)
        self._controls = [data.ctrl for data in self.datas]
        self._fields: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}

    def read(self, field: str) -> np.ndarray:
        """One array of every ``MjData``, ``[N, ...]``, to be copied by who needs it beyond the next step or read."""
        if field not in self._fields:
            # Views of MuJoCo's own memory, which stays where it is for the life of an MjData.
            views = [getattr(data, field)[None] for data in self.datas]
            self._fields[field] = views, np.concatenate(views) if len(views) > 1 else views[0]
        views, rows = self._fields[field]
        return rows if len(views) == 1 else np.concatenate(views, out=rows)

    def step(self, controls: np.ndarray, substeps: int) -> Failure | None:
        """Apply controls ``[N, nu]`` for a number of substeps, in every simulation.

        Returns:
            A simulation in which MuJoCo raised, with its error, or None.
        """
        for control, row in zip(self._controls, controls, strict=True):
            control[:] = row

        step, contact_forces, model, datas = self._step, self._contact_forces, self.model, self.datas

        def advance(i: int) -> None:
            step(model, datas[i], substeps)
            if contact_forces is not None:
                contact_forces(model, datas[i])

        return self._workers.run(advance, len(datas))

    def close(self) -> None:
        """End the threads; further steps run on the caller's."""
        self._workers.close()


Outcome = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Observations ``[N, D]``, rewards ``[N]`` and terminated ``[N]``."""


class Task(ABC):
    """Base of the tasks. Each one is its Gymnasium class, read line by line, with a leading axis for N.

    Weights and ranges are looked up in Gymnasium's environment, so none is written down here. Sums and products keep
    Gymnasium's order and types, because results are compared bit for bit; ``actions`` stay float32 when they are.

    Args:
        env: Gymnasium's environment without its wrappers.
        simulations: Where the physics happens.
    """

    reads_contact_forces: ClassVar[bool] = False
    """Whether ``cfrc_ext`` is needed."""
    required: ClassVar[tuple[str, ...]] = ()
    """Switches of the Gymnasium class that have to be on, as they are by default."""

    def __init__(self, env: Any, simulations: Simulations) -> None:
        self.env = env
        self.simulations = simulations
        self.read = simulations.read
        self.dt: float = env.dt
        """Seconds of a step; Gymnasium works it out anew, slowly, at each use."""

    def before(self) -> Any:
        """What the reward compares with the state after the step, ``[N, ...]``: a copy, which the step leaves alone."""
        return None

    @abstractmethod
    def after(self, before: Any, actions: np.ndarray) -> Outcome:
        """Evaluate the step that has been taken with ``actions``, ``[N, A]``; ``before`` is from :meth:`before`."""


def never(count: int) -> np.ndarray:
    """Terminated in none of N environments."""
    return np.zeros(count, dtype=bool)


def squared_sums(values: np.ndarray) -> np.ndarray:
    """Sum of the squares of each row: ``[N, ...]`` to ``[N]``."""
    squares = np.square(values)
    return np.add.reduce(squares if squares.ndim == 2 else flat(squares), axis=1)


def finite_rows(values: np.ndarray) -> np.ndarray:
    """Whether all of ``[N, K]`` in a row is finite, ``[N]``."""
    return np.logical_and.reduce(np.isfinite(values), axis=1)


def inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Whether values lie strictly between two limits, elementwise."""
    low, high = limits
    return (low < values) & (values < high)


def rows_inside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Whether all of ``[N, K]`` in a row lies strictly between the limits ``[1, K]``, ``[N]``."""
    return np.logical_and.reduce((low < values) & (values < high), axis=1)


def clipped(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """What ``numpy.clip`` returns, for arrays so small that its Python is what costs."""
    return np.minimum(np.maximum(values, weak(low, values.dtype)), weak(high, values.dtype))


@functools.cache
def weak(number: float, dtype: np.dtype) -> np.ndarray:
    """A number as Python's float takes part in arithmetic with this type: rounded to it. An array converts no more."""
    return np.array(number, dtype=dtype)


def flat(values: np.ndarray) -> np.ndarray:
    """``[N, ...]`` to ``[N, K]``."""
    return values.reshape(len(values), -1)


def all_finite(values: np.ndarray) -> bool:
    """Whether no value is infinite or NaN; for small arrays, in a third of the time of a mask and its reduction."""
    # Zero times what is not finite is not zero.
    return bool(np.vdot(values, _zeros(values.size)) == 0.0)


@functools.lru_cache(maxsize=16)
def _zeros(size: int) -> np.ndarray:
    return np.zeros(size)
