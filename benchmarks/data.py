"""Data sets of the benchmarks: the demo generator's, written once below ``benchmarks/.data`` and kept."""

from __future__ import annotations

import shutil
from pathlib import Path

from stream_gmm import demo
from stream_gmm.core.model.params import MixtureParams

FOLDER = Path(__file__).parent / ".data"


def dataset(rows: int, columns: int, components: int, files: int = 8, compression: str = "snappy") -> Path:
    """Return a folder of Parquet files drawn from a known mixture (``truth.gmm`` in it).

    Snappy is what Spark and pyarrow write unless told otherwise.
    """
    folder = FOLDER / f"{rows}x{columns}-{components}-{compression}"
    if not (folder / "truth.gmm").exists():
        shutil.rmtree(folder, ignore_errors=True)
        demo.write(folder, rows=rows, columns=columns, files=files, components=components, compression=compression)
    return folder


def truth(columns: int, components: int) -> MixtureParams:
    """Return the mixture from which :func:`dataset` draws."""
    return demo.truth(columns, components)
