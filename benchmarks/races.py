"""Writers that start at the same moment, again and again: what they leave, and how each of them ends.

::

    python -m benchmarks.races --races 500 --writers 4
    python -m benchmarks.races --races 500 --writers 4 --s3

A writer scores the same rows into the same folder, with a model of its own. After every race the scored table must be
the complete result of one writer, and every writer must have published, found its result published before, or ended
with exit code 5, which says that another one uses the folder.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
from collections import Counter
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

import stream_gmm as sg
from stream_gmm import demo
from stream_gmm.errors import StreamGMMError
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.io.sink.places import is_intact, open_place

ROWS, COLUMNS, FILES = 2_000, 2, 2


def make_writers_input(folder: Path, writers: int) -> tuple[Path, list[Path]]:
    """Write data and a model for each writer; return their paths."""
    data = folder / "data"
    demo.write(data, rows=ROWS, columns=COLUMNS, files=FILES, components=2)
    source = sg.open_dataset(data, columns=["x0", "x1"])
    models = [
        sg.save_model(sg.fit(source, k, "diag", n_init=1, sample_rows=500), folder / f"{k}.gmm")
        for k in range(1, writers + 1)
    ]
    return data, models


def run_writer(
    number: int, races: int, wait: float, barriers: tuple[Barrier, Barrier], data: Path, model: Path, target: str,
    ends: Any,
) -> None:  # fmt: skip
    """Take part in every race; report how each ended for this writer: 'published', 'there before' or an exit code."""
    fitted, source = sg.load_model(model), sg.open_dataset(data, columns=["x0", "x1"])
    for race in range(races):
        barriers[0].wait()
        try:
            result = sg.score(fitted, source, target, client=SerialExecutor(), wait=wait)
            end = "there before" if result.already_published else "published"
        except StreamGMMError as error:
            end = f"exit code {error.exit_code}" + ("" if error.exit_code == 5 else f": {error}")
        except Exception as error:
            end = f"{type(error).__name__}: {error}"
        ends.put((race, number, end))
        barriers[1].wait()


def check_result(target: str) -> str:
    """Return the model of the complete result in a folder or prefix; fails if it is not complete."""
    opened = sg.open_scored(target)
    manifest = opened.manifest
    for part in manifest["parts"]:
        assert is_intact(open_place(opened.folder), part["path"], part["bytes"], part["sha256"]), part["path"]
    table = opened.to_dataset()
    assert table.count_rows() == ROWS == manifest["rows_out"]
    assert table.schema.metadata[b"stream_gmm.model_digest"].decode() == manifest["model_digest"]
    return str(manifest["model_digest"])


def run_races(races: int, writers: int, wait: float = 0.0, s3: bool = False) -> Counter[str]:
    """Run races, check the folder after each, and return how often a writer ended how."""
    folder = Path(tempfile.mkdtemp(prefix="races-"))
    context = multiprocessing.get_context("spawn")
    try:
        data, models = make_writers_input(folder, writers)
        digests = {sg.load_model(m).digest for m in models}
        (folder / "out").mkdir()
        target = str(folder / "out" / "scored")
        if s3:
            target = _start_s3()
        barriers = context.Barrier(writers + 1), context.Barrier(writers + 1)
        ends: Any = context.Queue()
        processes = [
            context.Process(target=run_writer, args=(i, races, wait, barriers, data, m, target, ends))
            for i, m in enumerate(models)
        ]
        for process in processes:
            process.start()
        seen: Counter[str] = Counter()
        for race in range(races):
            if race and race % 50 == 0:
                print(f"{race} races: {dict(seen)}", flush=True)
            barriers[0].wait()
            ended = Counter(ends.get()[2] for _ in range(writers))
            assert ended["published"] + ended["there before"] >= 1, ended
            assert check_result(target) in digests
            left = [p.name for p in (folder / "out").iterdir() if p.name != "scored"]
            assert not left, left
            seen += ended
            barriers[1].wait()
        for process in processes:
            process.join()
        return seen
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start_s3() -> str:
    """Start an S3 server on this machine, to which the environment leads; return the URI of an output."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    pafs.FileSystem.from_uri("s3://races/?allow_bucket_creation=true")[0].create_dir("races")
    return "s3://races/out"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=500)
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--wait", type=float, default=0.0, help="seconds that a writer waits for another one")
    parser.add_argument("--s3", action="store_true", help="on an S3 server that is started for it")
    given = parser.parse_args()
    seen = run_races(given.races, given.writers, given.wait, given.s3)
    for end, count in seen.most_common():
        print(f"{count:6d}  {end}")
    unexpected = [end for end in seen if end not in ("published", "there before", "exit code 5")]
    print(f"{given.races} races of {given.writers} writers, one complete result after each")
    sys.exit(bool(unexpected))


if __name__ == "__main__":
    main()
