"""Named places at which tests make a process fail. Off, a place costs one comparison.

``STREAM_GMM_FAULT=site:action[:n]`` lets the n-th visit (from 1) of a site end in an action: a signal to the process
(``kill``, ``term``, ``int``, ``stop``) or a full disk (``enospc``). ``STREAM_GMM_FAULT_MARK``, a path, makes it
happen once in all processes together: the process that creates the file is the one that fails.

Sites: ``task`` (in a worker), ``profile``, ``race``, ``finalists``, ``sample``, ``pass`` (all after the checkpoint),
``ledger`` (between two checkpoints), ``choice``, ``results`` (before the results of a run are published), ``score``
(before scores are published), ``swap`` (published, not cleaned up), ``update`` (an update is decided, and nothing of
it published), ``statistics`` (all published but the statistics of the files).

May import: nothing; every room but core may import it. Where to begin: :func:`fault_site`.
"""

from __future__ import annotations

import errno
import os
import signal

SITES = (
    "task", "profile", "race", "finalists", "sample", "pass", "ledger", "choice", "results", "score", "swap",
    "update", "statistics",
)  # fmt: skip
_SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT, "stop": signal.SIGSTOP}
_PLAN = os.environ.get("STREAM_GMM_FAULT", "")
_visits = 0


def fault_site(name: str) -> None:
    """Fail here, if the environment says so.

    Raises
    ------
    OSError
        As of a full disk.
    """
    if _PLAN:
        _visit(name)


def _visit(name: str) -> None:
    global _visits
    site, action, number = (*_PLAN.split(":"), "1")[:3]
    if site != name:
        return
    _visits += 1
    if _visits < int(number) or not _is_first():
        return
    if action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device (injected)")
    os.kill(os.getpid(), _SIGNALS[action])


def _is_first() -> bool:
    mark = os.environ.get("STREAM_GMM_FAULT_MARK")
    if not mark:
        return _visits == int((*_PLAN.split(":"), "1")[2])
    try:
        os.close(os.open(mark, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True
