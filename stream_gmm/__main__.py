"""The command line (thin): ``stream-gmm`` and ``python -m stream_gmm``."""

from __future__ import annotations

import atexit
import sys

from stream_gmm.cli.endings import Interruption, ignore_signals, limit_shutdown


def main() -> None:
    """Run a command, which signals end in one line from its first import on."""
    interruption = Interruption(sys.argv[1:])
    interruption.install()
    atexit.register(ignore_signals)  # runs last: what is left is Python's own end, which would let them kill it
    try:
        from stream_gmm.cli.commands import main as run
    except BaseException:
        if not interruption.number:
            raise
        interruption.finish(128 + interruption.number)
        sys.exit(128 + interruption.number)
    with limit_shutdown():
        run()


if __name__ == "__main__":
    main()
