"""Scoring Parquet to Parquet, beside a bare pyarrow job and beside a loop of scikit-learn, in one run.

``python -m benchmarks.score_parquet [--rows N] [--threads T]``: rows x 8 columns, K = 8, full covariances. The bare
job reads the same columns in batches of the same size and writes a table of the same schema, with the same
compression and as many files at once; its values are copies of columns. The loop reads with ``iter_batches``, calls
``predict_proba``, ``score_samples`` and ``predict`` of a scikit-learn mixture with the same parameters, and writes
their results to Parquet (for an eighth of the files, with as many threads as BLAS likes). Seconds of all cores are
given beside those of the clock: on a busy machine only they can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import stream_gmm as sg
from benchmarks.data import prepare_dataset, true_mixture
from benchmarks.harness import write_report
from stream_gmm.core.criteria import Criteria
from stream_gmm.core.estep.accumulate import CHUNK_ROWS
from stream_gmm.core.fit.em import Outcome
from stream_gmm.execute.threads import ThreadsExecutor

COLUMNS, COMPONENTS = 8, 8
NAMES = [f"x{j}" for j in range(COLUMNS)]


def copy_file(source: Path, target: Path, schema: pa.Schema) -> None:
    """Read the columns of a file and write a file with the columns and types of a scored one."""
    plain = [f.name for f in schema if not pa.types.is_floating(f.type)]
    with (
        pq.ParquetFile(source, pre_buffer=False) as file,
        pq.ParquetWriter(
            target, schema, compression="zstd", use_dictionary=plain, write_page_checksum=True
        ) as writer,
    ):
        for batch in file.iter_batches(CHUNK_ROWS, use_threads=False):
            doubles = [batch.column(c) for c in NAMES]
            number, arrays = 0, []
            for field in schema:
                if field.name in batch.schema.names:
                    arrays.append(batch.column(field.name))
                elif pa.types.is_floating(field.type):
                    arrays.append(doubles[number % COLUMNS])
                    number += 1
                elif pa.types.is_integer(field.type):
                    arrays.append(pa.array(np.arange(batch.num_rows) % COMPONENTS, field.type))
                elif pa.types.is_boolean(field.type):
                    arrays.append(pa.array(np.arange(batch.num_rows) % 100 == 0))
                else:
                    arrays.append(pa.nulls(batch.num_rows, field.type))
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    folder = prepare_dataset(given.rows, COLUMNS, COMPONENTS)
    files = sorted(Path(folder).glob("*.parquet"))
    params = true_mixture(COLUMNS, COMPONENTS)
    nothing = Criteria(0.0, params.n_parameters, 1.0, 0.0, 0.0)
    model = sg.FitResult(params, Outcome.CONVERGED, nothing, (0.0,), 0, columns=tuple(NAMES), threshold=-25.0)
    data, mixture = sg.open_dataset(str(folder), columns=NAMES), model.to_sklearn()
    del mixture.feature_names_in_
    scored, copied = Path(folder).with_name("scored"), Path(folder).with_name("copied")

    def score() -> None:
        shutil.rmtree(scored, ignore_errors=True)
        sg.score(model, data, scored, client=ThreadsExecutor(given.threads))

    def copy() -> None:
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir()
        with ThreadPoolExecutor(given.threads) as pool:
            list(pool.map(lambda path: copy_file(path, copied / path.name, schema), files))

    def loop() -> None:
        for path in part_files:
            with pq.ParquetFile(path) as file, contextlib.ExitStack() as stack:
                writer = None
                for batch in file.iter_batches(CHUNK_ROWS):
                    rows = np.column_stack([batch.column(c).to_numpy() for c in NAMES])
                    proba = mixture.predict_proba(rows)
                    scores = {
                        "component": mixture.predict(rows), "log_density": mixture.score_samples(rows),
                        **{f"proba_{i}": proba[:, i] for i in range(COMPONENTS)},
                    }  # fmt: skip
                    table = pa.table({**{c: batch.column(c) for c in batch.schema.names}, **scores})
                    writer = writer or stack.enter_context(
                        pq.ParquetWriter(copied / "loop.parquet", table.schema, compression="zstd")
                    )
                    writer.write_table(table)

    part_files = files[: max(len(files) // 8, 1)]
    score()
    schema = pq.read_schema(next(iter(scored.glob("*.parquet"))))
    part = sum(pq.read_metadata(p).num_rows for p in part_files)
    jobs = {
        "stream-gmm score": (score, given.rows),
        "bare pyarrow job": (copy, given.rows),
        "scikit-learn over iter_batches": (loop, part),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in jobs}
    for _ in range(given.rounds):
        for name, (run, _) in jobs.items():
            clock, cores = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - clock, time.process_time() - cores))
    medians = {name: [statistics.median(column) for column in zip(*t, strict=True)] for name, t in times.items()}
    rates = {name: [jobs[name][1] / seconds / 1e6 for seconds in both] for name, both in medians.items()}
    ours = rates["stream-gmm score"]
    write_report(
        "score_parquet",
        ("job", "M rows/s", "M rows per second of a core", "score is so many times as fast", "by seconds of cores"),
        [(name, *both, ours[0] / both[0], ours[1] / both[1]) for name, both in rates.items()],
    )
    shutil.rmtree(scored)
    shutil.rmtree(copied)


if __name__ == "__main__":
    main()
