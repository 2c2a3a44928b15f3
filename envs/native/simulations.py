"""N simulations of one MuJoCo model, stepped together and read as arrays of N rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from r2vpo.envs.native.workers import Failure, WorkerPool


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
