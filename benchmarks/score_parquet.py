"""Scoring Parquet to Parquet, beside bare pyarrow jobs and beside a loop of scikit-learn, in one run.

``python -m benchmarks.score_parquet [--rows N] [--threads T]``: rows x 8 columns, K = 8, full covariances. The bare
jobs read the same columns in batches of the same size and write a table of the same schema, as many files at once.
The first one writes copies of columns, with zstd at Arrow's level; the second one scores that are at hand, with the
options of the writer of ``score``: it does all that ``score`` does but to compute, to hash and to flush. The loop
reads with ``iter_batches``, calls ``predict_proba``, ``score_samples`` and ``predict`` of a scikit-learn mixture with
the same parameters, and writes their results to Parquet (for an eighth of the files, with as many threads as BLAS
likes). Seconds of all cores are given beside those of the clock: on a busy machine only they can be compared.
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
from stream_gmm.io.sink.parquet.encodings import AUTO, choose_encoding

COLUMNS, COMPONENTS = 8, 8
NAMES = [f"x{j}" for j in range(COLUMNS)]


def copy_file(source: Path, target: Path, schema: pa.Schema, scores: pa.Table | None = None) -> None:
    """Read the columns of a file and write a file with the columns and types of a scored one.

    Its scores are copies of columns, or ``scores`` of at least as many rows, with the options of the writer for them.
    """
    with contextlib.ExitStack() as stack:
        file, writer, row = stack.enter_context(pq.ParquetFile(source, pre_buffer=False)), None, 0
        kept = [name for name in schema.names if name in file.schema_arrow.names]
        for batch in file.iter_batches(CHUNK_ROWS, columns=kept, use_threads=False):
            arrays = [batch.column(name) for name in kept]
            if scores is None:
                arrays += [make_values(field.type, i, batch) for i, field in enumerate(list(schema)[len(kept) :])]
            else:
                arrays += scores.slice(row, batch.num_rows).select(schema.names[len(kept) :]).columns
            table = pa.Table.from_arrays(arrays, schema=schema)
            if writer is None:
                plain = [f.name for f in schema if not pa.types.is_floating(f.type)]
                own = {"compression": "zstd", "use_dictionary": plain, "write_page_checksum": True}
                options = own if scores is None else choose_encoding(table, AUTO)
                writer = stack.enter_context(pq.ParquetWriter(target, schema, **options))
            writer.write_table(table)
            row += batch.num_rows


def make_values(kind: pa.DataType, number: int, batch: pa.RecordBatch) -> pa.Array:
    """Return values of a type: copies of a column of the batch for floats, and few different ones for others."""
    if pa.types.is_floating(kind):
        return batch.column(NAMES[number % COLUMNS])
    if pa.types.is_integer(kind):
        return pa.array(np.arange(batch.num_rows) % COMPONENTS, kind)
    if pa.types.is_boolean(kind):
        return pa.array(np.arange(batch.num_rows) % 100 == 0)
    return pa.nulls(batch.num_rows, kind)


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

    def copy(scores: pa.Table | None = None) -> None:
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir()
        with ThreadPoolExecutor(given.threads) as pool:
            list(pool.map(lambda path: copy_file(path, copied / path.name, schema, scores), files))

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
    # A large file has several scored parts: as many of them as its rows need are at hand.
    parts, most = sorted(scored.glob("*.parquet")), max(pq.read_metadata(path).num_rows for path in files)
    enough = -(-most // min(pq.read_metadata(path).num_rows for path in parts))
    schema, at_hand = pq.read_schema(parts[0]), pa.concat_tables(map(pq.read_table, parts[:enough]))
    part = sum(pq.read_metadata(p).num_rows for p in part_files)
    jobs = {
        "stream-gmm score": (score, given.rows),
        "bare pyarrow job, copies of columns": (copy, given.rows),
        "bare pyarrow job, the same values and options": (lambda: copy(at_hand), given.rows),
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
