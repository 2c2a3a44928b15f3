"""``r2vpo hub push | pull``: a finished run on the Hugging Face Hub, or another of its kind, with a model card.

What is read is what a run leaves on disk, so both trainers are served. Of a language model the weights lie where
``from_pretrained`` looks for them, and the files of the run in a folder beside them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import tyro

from r2vpo.errors import ConfigError, R2VPOError, RunDirectoryError
from r2vpo.runs.directory import CHECKPOINT, CONFIG, CURVE, METRICS, SUMMARY, VERSIONS

FILM = "replay.mp4"
"""Under this name the hub plays it on the model's page."""
_MODEL, _RUN = "model", "run"
_FILES = (CONFIG, VERSIONS, METRICS, SUMMARY, CURVE)
_PULLED = (
    "*.json",
    "*.jsonl",
    "*.png",
    "*.mp4",
    "*.md",
    "*.zip",
    "*.onnx",
    "*.safetensors",
    "*.txt",
    "*.model",
    "*.jinja",
)
"""Data alone: whatever else a repository holds, code say, stays there."""
_NORMAL_95 = 1.96
_USAGE = """usage: r2vpo hub {push,pull} ...

  push   a finished run to a hub, with a model card
  pull   a run from a hub, to evaluate it or to go on with it
"""


@dataclass(frozen=True)
class PushCommand:
    """Push a finished run to the Hugging Face Hub: policy or model, settings, metrics, picture, film and a card."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    repository: Annotated[str, tyro.conf.Positional]
    """USER/NAME; made where it is not there. The token is that of `hf auth login` or HF_TOKEN."""
    private: bool = False
    """Make the repository a private one."""
    endpoint: str | None = None
    """Address of another hub than huggingface.co; HF_ENDPOINT says it as well."""


@dataclass(frozen=True)
class PullCommand:
    """Pull a run that was pushed. Nothing in it is executed."""

    repository: Annotated[str, tyro.conf.Positional]
    """USER/NAME."""
    out: Path | None = None
    """Run directory to make; runs/NAME when not given."""
    revision: str | None = None
    """Branch, tag or commit; the newest when not given."""
    endpoint: str | None = None
    """Address of another hub than huggingface.co; HF_ENDPOINT says it as well."""


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_USAGE, end="")
        return 0 if arguments else 2
    name, words = arguments[0], list(arguments[1:])
    if name == "push":
        pushed = tyro.cli(PushCommand, args=words, prog="r2vpo hub push")
        print(push(pushed.run, pushed.repository, pushed.private, pushed.endpoint))
    elif name == "pull":
        pulled = tyro.cli(PullCommand, args=words, prog="r2vpo hub pull")
        out = pulled.out or Path("runs") / pulled.repository.rpartition("/")[2]
        print(pull(pulled.repository, out, pulled.revision, pulled.endpoint))
    else:
        print(f"r2vpo hub: no command {name!r}; there are push, pull", file=sys.stderr)
        return 2
    return 0


def push(run: Path, repository: str, private: bool = False, endpoint: str | None = None) -> str:
    """Push a finished run; returns the address of its page.

    Args:
        run: Run directory.
        repository: ``USER/NAME``.
        private: Of a repository that is made.
        endpoint: Address of the hub.

    Raises:
        RunDirectoryError: No finished run there.
        R2VPOError: The hub refuses, or cannot be reached.
    """
    files = files_of(run)
    with _hub() as hub:
        api = hub.HfApi(endpoint=endpoint, library_name="r2vpo")
        page = api.create_repo(repository, private=private, exist_ok=True)
        added = [hub.CommitOperationAdd(name, path) for name, path in files.items()]
        added.append(hub.CommitOperationAdd("README.md", card(run, repository).encode()))
        api.create_commit(repository, added, commit_message="r2vpo hub push")
    return str(page)


def pull(repository: str, out: Path, revision: str | None = None, endpoint: str | None = None) -> Path:
    """Pull a run into a folder that is not there yet; returns the folder.

    Raises:
        RunDirectoryError: The folder holds something.
        R2VPOError: There is no such run, or the hub cannot be reached.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunDirectoryError(f"{out} holds something already; name another folder")
    with _hub() as hub:
        api = hub.HfApi(endpoint=endpoint, library_name="r2vpo")
        names = api.list_repo_files(repository, revision=revision)
        is_model = f"{_RUN}/{CONFIG}" in names
        if not is_model and CONFIG not in names:
            raise R2VPOError(f"{repository} holds no run: there is no {CONFIG} in it")
        below = out / _MODEL if is_model else out
        api.snapshot_download(repository, revision=revision, local_dir=below, allow_patterns=list(_PULLED))
    if is_model:
        for path in (below / _RUN).iterdir():
            path.rename(out / path.name)
        (below / _RUN).rmdir()
    return out


def files_of(run: Path) -> dict[str, Path]:
    """What is pushed of a run: names on the hub and files here.

    Raises:
        RunDirectoryError: No run, or one that is not finished.
    """
    if not (run / SUMMARY).is_file():
        raise RunDirectoryError(f"{run} holds no finished run: there is no {SUMMARY} in it")
    model = run / _MODEL
    prefix = f"{_RUN}/" if model.is_dir() else ""
    files = {prefix + name: run / name for name in _FILES}
    if model.is_dir():
        files |= {path.relative_to(model).as_posix(): path for path in sorted(model.rglob("*")) if path.is_file()}
    else:
        files |= {CHECKPOINT.as_posix(): run / CHECKPOINT, "policy.onnx": run / "policy.onnx"}
        films = sorted(run.glob("video*.mp4"), key=lambda path: path.stat().st_mtime)
        if films:
            files[FILM] = films[-1]
    return {name: path for name, path in files.items() if path.is_file()}


def card(run: Path, repository: str) -> str:
    """The model card: what was trained on what, how it scores, how to use it and how to train it again."""
    summary, config = (json.loads((run / name).read_text()) for name in (SUMMARY, CONFIG))
    control = "env" in summary
    trainer, task = ("control", summary["env"]) if control else ("llm", summary["dataset"])
    name, found = repository.rpartition("/")[2], score(summary)
    head: dict[str, Any] = {"library_name": "r2vpo" if control else "transformers", "tags": ["r2vpo", task]}
    if control:
        head["tags"].insert(0, "reinforcement-learning")
        result = {
            "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
            "dataset": {"name": task, "type": task},
            "metrics": [{"type": "mean_reward", "value": summary.get("eval_return_mean"), "name": "mean return"}],
        }
        head["model-index"] = [{"name": name, "results": [result]}] if found else []
    use = (
        f'from r2vpo.control import R2VPO\n\nmodel = R2VPO.load("runs/{name}")\n'
        "action, _ = model.predict(observation, deterministic=True)"
        if control
        else "from transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{repository}")'
    )
    size = f"{summary['total_steps']:,} environment steps" if control else f"{summary['rollouts']:,} rollouts"
    versions = "\n".join(f"| {package} | {version} |" for package, version in summary["versions"].items())
    return _CARD.format(
        head=json.dumps(head, indent=1),  # JSON is YAML
        name=name,
        repository=repository,
        trainer=trainer,
        task=task,
        about=f"{summary['objective']} ({summary['algo']}), seed {config.get('seed')}, {size}",
        score=found or "The run was not evaluated",
        use=use,
        versions=versions,
    )


def score(summary: dict[str, Any]) -> str | None:
    """The closing evaluation in a sentence, with a 95 % interval over its episodes or problems; None without one."""
    mean, episodes = summary.get("eval_return_mean"), summary.get("eval_episodes")
    if mean is not None and episodes:
        half = _NORMAL_95 * summary["eval_return_std"] / math.sqrt(max(1, episodes - 1))
        return f"Mean return {mean:.1f}, 95 % interval [{mean - half:.1f}, {mean + half:.1f}] over {episodes} episodes"
    share, problems = summary.get("accuracy_greedy"), summary.get("eval_problems")
    if share is not None and problems:
        half = _NORMAL_95 * math.sqrt(share * (1 - share) / problems)
        low, high = max(0.0, share - half), min(1.0, share + half)
        return f"Greedy accuracy {share:.3f}, 95 % interval [{low:.3f}, {high:.3f}] over {problems} problems"
    return None


@contextmanager
def _hub() -> Iterator[Any]:
    """The library, with what goes wrong on the way as one error in a line."""
    if find_spec("huggingface_hub") is None:
        raise ConfigError("hub", None, "used with its library: pip install 'r2vpo[hub]'")
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    try:
        yield huggingface_hub
    except HFValidationError as error:
        raise ConfigError("repository", str(error).splitlines()[0], "USER/NAME") from error
    except R2VPOError:
        raise
    except Exception as error:  # its HTTP library, and so what that raises, has changed twice
        raise R2VPOError(f"the hub: {type(error).__name__}: {str(error).strip().splitlines()[0]}") from error


_CARD = """---
{head}
---

# {name}

{task}, trained with [R²VPO](https://arxiv.org/abs/2601.03320): {about}.

**{score}.** One seed: another may end elsewhere.

## Use

```console
r2vpo hub pull {repository} --out runs/{name}
r2vpo {trainer} evaluate runs/{name}
```

```python
{use}
```

## Train it again

```console
r2vpo {trainer} train --config runs/{name}/config.json --run-dir runs/{name}-again
```

| package | version |
|---|---|
{versions}
"""
