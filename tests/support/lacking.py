"""Hides from this library, in the process that imports it first, what Unix alone has.

Other libraries see the system as it is: what their Linux builds use, their builds for other systems do not.
"""

import builtins
import os
import signal

_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "syslog"}
_NAMES = {
    "os": """fork forkpty getuid geteuid getgid getegid getloadavg getpgid getpgrp setsid killpg nice mkfifo mknod chown
        lchown chroot sysconf statvfs uname wait wait3 wait4 pipe2 openpty posix_spawn register_at_fork O_DIRECTORY
        O_NOFOLLOW O_NONBLOCK O_SYNC O_CLOEXEC sched_getaffinity sched_setaffinity sched_yield WNOHANG""",
    "signal": """SIGKILL SIGALRM SIGHUP SIGUSR1 SIGUSR2 SIGCHLD SIGSTOP SIGCONT SIGQUIT SIGPIPE alarm setitimer
        getitimer sigwait siginterrupt pthread_kill pthread_sigmask""",
}


class _Partly:
    """A module of which some names are missing."""

    def __init__(self, module, **others):
        self._module, self._missing = module, _NAMES[module.__name__].split()
        vars(self).update(others)

    def __getattr__(self, name):
        if name in self._missing:
            raise AttributeError(f"this system has no {self._module.__name__}.{name}")
        return getattr(self._module, name)


_PARTLY = {"os": _Partly(os, name="nt"), "signal": _Partly(signal)}
_import = builtins.__import__


def _importing(name, given=None, *places, **named):
    if str((given or {}).get("__package__")).partition(".")[0] != "r2vpo":
        return _import(name, given, *places, **named)
    if name in _MODULES:
        raise ImportError(f"this system has no {name}")
    return _PARTLY.get(name) or _import(name, given, *places, **named)


builtins.__import__ = _importing
