"""Gymnasium's MuJoCo v5 tasks, N at a time: physics on a few threads, everything around it on arrays of N rows.

The same seeds and actions give the same bits as :class:`r2vpo.envs.vector.VectorEnv`. With eight environments or more
it costs little beyond the physics, and the physics uses all cores.
"""

from r2vpo.envs.native.engine import NativeVectorEnv
from r2vpo.envs.native.table import NotNative, native_tasks, supports

__all__ = ["NativeVectorEnv", "NotNative", "native_tasks", "supports"]
