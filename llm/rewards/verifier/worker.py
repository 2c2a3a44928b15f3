"""The verifier process: reads one request a line, writes one reply a line, trusts neither its input nor itself.

``python -m r2vpo.llm.rewards.verifier.worker CHECKS SECONDS MEMORY_BYTES``; `pool` starts it and is the only reader.

The first line written is ``{"ready": true}``, or ``{"failed": text}`` when a library cannot be loaded. A request is
``{"check": name, "arguments": {...}}``, a reply ``{"value": number}`` or ``{"error": text}``, with
``"leaving": true`` when it is the last.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from r2vpo.llm.rewards.verifier.checks import CHECKS, Check
from r2vpo.llm.rewards.verifier.confinement import confine, die_after

GRACE_SECONDS = 2.0
"""How much longer than the pool's limit a worker lives when nobody is left to kill it."""


def main() -> None:
    """Load the checks named on the command line, give up every right that is not needed, and serve."""
    names, seconds, memory_bytes = sys.argv[1].split(","), float(sys.argv[2]), int(sys.argv[3])
    requests, reply = _take_over_pipes()
    try:
        checks = {name: CHECKS[name]() for name in names}
        confine(memory_bytes)
    except Exception as error:
        reply({"failed": _describe(error)})
        return
    reply({"ready": True})
    serve(requests, reply, checks, seconds + GRACE_SECONDS)


def serve(
    requests: BinaryIO, reply: Callable[[dict[str, Any]], None], checks: dict[str, Check], seconds: float
) -> None:
    """Answer requests until the pipe closes, or until memory runs out: a fresh process has a clean heap."""
    for line in requests:
        die_after(seconds)
        try:
            request = json.loads(line)
            answer: dict[str, Any] = {"value": float(checks[request["check"]](**request["arguments"]))}
        except MemoryError:
            answer = {"error": "out of memory", "leaving": True}
        except Exception as error:
            answer = {"error": _describe(error)}
        reply(answer)
        die_after(0)
        if answer.get("leaving"):
            return


def _take_over_pipes() -> tuple[BinaryIO, Callable[[dict[str, Any]], None]]:
    # Whatever a library prints must not reach the parent as a reply, and nothing may read the requests but us.
    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)

    def reply(message: dict[str, Any]) -> None:
        os.write(replies, json.dumps(message).encode() + b"\n")

    return requests, reply


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


if __name__ == "__main__":
    main()
