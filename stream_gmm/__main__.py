"""The command line (thin): ``stream-gmm`` and ``python -m stream_gmm``."""

from __future__ import annotations

from stream_gmm.cli.commands import main

if __name__ == "__main__":
    main()
