"""Ten control tasks: five of Gymnasium's own, and five of ours that are sparse or whose dynamics change.

Importing this package registers ours with Gymnasium, and so does :func:`r2vpo.envs.making.make_env`. Gymnasium has no
plugins any more, so elsewhere it is ``import r2vpo.envs.tasks``, or
``gymnasium.make("r2vpo.envs.tasks:r2vpo/HopperShift-v0")``.
"""

from r2vpo.envs.tasks.table import TASKS, Task, markdown_table, register_tasks

__all__ = ["TASKS", "Task", "markdown_table", "register_tasks"]

register_tasks()
