"""Data sets of the benchmarks, written once by the demo generator to ``benchmarks/.data`` and kept there."""

from __future__ import annotations

import shutil
from pathlib import Path

from stream_gmm import demo
from stream_gmm.core.model.params import MixtureParams

DATA_FOLDER = Path(__file__).parent / ".data"


def prepare_dataset(rows: int, columns: int, components: int, files: int = 8, compression: str = "snappy") -> Path:
    """Return a folder of Parquet files drawn from a known mixture (``truth.gmm`` in the folder), written if missing.

    Snappy is the default compression of Spark and pyarrow.
    """
    folder = DATA_FOLDER / f"{rows}x{columns}-{components}-{compression}"
    if not (folder / "truth.gmm").exists():
        shutil.rmtree(folder, ignore_errors=True)
        demo.write(folder, rows=rows, columns=columns, files=files, components=components, compression=compression)
    return folder


def true_mixture(columns: int, components: int) -> MixtureParams:
    """Return the mixture from which the rows of :func:`prepare_dataset` are drawn."""
    return demo.truth(columns, components)
