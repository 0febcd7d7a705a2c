"""Single bits flipped in published results: whether those who read them, and ``verify``, notice.

::

    python -m benchmarks.flips --flips 3000

One bit at a time, chosen at random, of the models, records, catalogs, tables, ledgers, manifests and scored files
of a run folder with two versions; each flip is undone before the next.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

from stream_gmm import demo
from stream_gmm.errors import StreamGMMError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.registry import open_registry
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage
from stream_gmm.pipeline.upkeep.verify import verify


def make_run(data: Path, folder: Path, columns: list[str]) -> None:
    """Publish two versions and a scored table."""
    for k in (1, 2):
        config = validate_config(
            {
                "data": {"paths": str(data), "columns": columns},
                "sweep": {"n_components": [k], "covariance_type": "diag"},
                "em": {"n_init": 1, "sample_rows": 500},
                "output": {"folder": str(folder), "report_rows": 100},
            },
            "benchmark",
        )
        sweep_stage(config, SerialExecutor())
    score_stage(config, SerialExecutor())


def find_targets(folder: Path) -> list[Path]:
    """Return all files whose damage must be noticed: not those that no version refers to."""
    registry = open_registry(folder)
    kept = {registry.locate(v.name).name for v in registry.history}
    unused = [p for p in (folder / ".results").iterdir() if p.name.isdigit() and p.name not in kept]
    files = (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return sorted(p for p in files if not any(u in p.parents for u in unused))


def flip_bit(path: Path, number: int) -> None:
    """Flip one bit of a file, which gets a content of its own if it shared that with others."""
    content = bytearray(path.read_bytes())
    content[number // 8] ^= 1 << number % 8
    path.unlink()
    path.write_bytes(bytes(content))


def find_unnoticed(folder: Path, flips: int, seed: int) -> tuple[list[str], Counter[str]]:
    """Return the flips that ``verify`` does not notice, and the number of flips by the name of the file."""
    chance, unnoticed, tried = random.Random(seed), [], Counter[str]()
    targets = find_targets(folder)
    for _ in range(flips):
        path = chance.choice(targets)
        kept, number = path.read_bytes(), chance.randrange(path.stat().st_size * 8)
        flip_bit(path, number)
        try:
            noticed = bool(verify(folder).problems)
        except StreamGMMError:
            noticed = True
        if not noticed:
            unnoticed.append(f"{path.relative_to(folder)}: bit {number}")
        tried[path.name if path.suffix != ".gmm" else f"{path.parent.name}/*.gmm"] += 1
        path.write_bytes(kept)
    return unnoticed, tried


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="flips-"))
    try:
        demo.write(place / "data", rows=2_000, columns=2, files=2, components=2)
        make_run(place / "data", place / "run", ["x0", "x1"])
        unnoticed, tried = find_unnoticed(place / "run", given.flips, given.seed)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    for name, count in sorted(tried.items()):
        print(f"{count:6d}  {name}")
    print(f"{given.flips} bits flipped, {len(unnoticed)} not noticed", *unnoticed, sep="\n")
    sys.exit(bool(unnoticed))


if __name__ == "__main__":
    main()
