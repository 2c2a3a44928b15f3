"""What a verifier process gives up once it has loaded its libraries: memory, files, processes, the network.

This is the second line. The first is that no text of a model is evaluated unchecked (`guarded_eval`), the third that
the parent kills whatever does not answer in time (`pool`). An audit hook is no sandbox against native code; nothing
here runs any on behalf of a model.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

_DENIED = """
    os.system os.exec os.fork os.forkpty os.posix_spawn os.spawn os.startfile subprocess.Popen pty.spawn
    os.remove os.rename os.rmdir os.mkdir os.link os.symlink os.truncate os.chmod os.chown os.utime os.kill
    os.killpg shutil.rmtree shutil.move shutil.copyfile socket.connect socket.bind socket.sendto
    socket.getaddrinfo urllib.Request ftplib.connect ctypes.dlopen
"""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def confine(memory_bytes: int) -> None:
    """Limit this process's address space and refuse, from here on, whatever changes the world outside it.

    Args:
        memory_bytes: Limit of the address space in bytes; an allocation beyond it is a MemoryError. macOS has no such
            limit: every process there has reserved more from the start.
    """
    import resource

    sys.dont_write_bytecode = True
    if sys.platform != "darwin":
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    denied = frozenset(_DENIED.split())

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if event in denied or (event == "open" and _writes(arguments)):
            raise PermissionError(f"{event} is not allowed while an answer is verified")

    sys.addaudithook(refuse)


def die_after(seconds: float) -> None:
    """Let the kernel end this process after ``seconds``; 0 cancels that.

    The parent's own limit is shorter. This one holds when the parent was killed, also while a computation in C keeps
    every Python thread and signal handler waiting.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _writes(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 else 0
    return isinstance(flags, int) and bool(flags & _WRITING)
