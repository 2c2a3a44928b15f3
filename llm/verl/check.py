"""``python -m r2vpo.llm.verl.check``: has verl found the plugin?

verl loads its plugins when it is imported and reports a failure at the level DEBUG only. This asks a fresh process
that imports nothing but verl, and loads the entry point once more where its error can be seen.
"""

from __future__ import annotations

import json
import subprocess
import sys

SAMPLER = ("pkg://r2vpo.llm.verl.sampler", "FIFOReplayBuffer")
"""Values of ``trainer.v1.sampler.custom_sampler.{path,name}``."""

REMEDY = (
    'pip install "r2vpo[verl]" into the environment of every node; or, without its entry point, set '
    "VERL_USE_EXTERNAL_MODULES=r2vpo.llm.verl for every process. VERL_USE_EXTERNAL_PLUGINS must not leave it out."
)

_PROBE = f"""
import json, traceback
import verl
from verl.trainer.ppo.core_algos import POLICY_LOSS_REGISTRY
found = {{"verl": verl.__version__, "policy loss r2vpo": "r2vpo" in POLICY_LOSS_REGISTRY}}
try:
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY
    found["trainer r2vpo"] = "r2vpo" in TRAINER_REGISTRY
    from verl.utils.import_utils import load_extern_object
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
    found["sampler"] = issubclass(load_extern_object{SAMPLER!r}, ReplayBuffer)
except Exception:
    found["error"] = traceback.format_exc()
from importlib.metadata import entry_points
plugins = [plugin for plugin in entry_points(group="verl.plugins") if plugin.name == "r2vpo"]
found["entry point verl.plugins"] = bool(plugins)
for plugin in plugins:
    try:
        plugin.load()
    except Exception:
        found["error"] = traceback.format_exc()
print("\\n" + json.dumps(found))
"""

NEEDED = ("policy loss r2vpo", "trainer r2vpo", "sampler")


def probe() -> dict[str, object]:
    """What a fresh process finds after ``import verl``.

    Returns:
        True or False for each of :data:`NEEDED` and for the entry point, the version of verl, and ``error``: the
        traceback of what failed.
    """
    run = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=False)
    if run.returncode:
        return {"error": run.stderr}
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> int:
    """Print what verl has found; 0 if it has found everything, otherwise 1."""
    found = probe()
    error = found.pop("error", None)
    for name, value in found.items():
        print(f"{name:26} {value if isinstance(value, str) else 'found' if value else 'missing'}")
    if all(found.get(name) for name in NEEDED) and error is None:
        return 0
    print(error or "", REMEDY, sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
