"""Damaged and unsuitable data, models and run folders: one message, the documented exit code, and nothing changed.

Each place is made by a function below and the command is run in it. Afterwards every file must be there with the
bytes it had; there may be the ledger of a run that had begun to read, from which it would go on.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.cli.commands import main
from stream_gmm.execute.serial import SerialExecutor
from stream_gmm.pipeline.job.config import validate_config
from stream_gmm.pipeline.job.stages import score_stage, sweep_stage

ROWS = 60
SWEEP = "sweep --folder out --executor serial --sweep.covariance-type diag --n-init 1 "
BAD = "--n-components 1:2 --paths bad.parquet "
FOLDER = "--n-components 1:2 --paths bad "

Make = Callable[[], Any]


def columns(**more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"x": rng.normal(size=ROWS), "y": rng.normal(size=ROWS), **more}


def put(path: str, table: dict[str, Any], **options: Any) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, **options)
    return Path(path)


def data(**more: Any) -> Make:
    """Good columns and others in one file."""
    return lambda: put("bad.parquet", columns(**more))


def untold(**more: Any) -> Make:
    """The same, with a footer that tells nothing of the values."""
    return lambda: put("bad.parquet", columns(**more), write_statistics=False)


def only(**table: Any) -> Make:
    return lambda: put("bad.parquet", table)


def spoilt(name: str, value: float | None) -> Make:
    """Good columns, of which one has another value in its row 7."""
    return data(**{name: spoil(name, value)})


def spoil(name: str, value: float | None) -> list[float | None]:
    return [*columns()[name][:7], value, *columns()[name][8:]]


def bytes_of(change: Callable[[bytes], bytes], **options: Any) -> Make:
    """A good file whose bytes were changed."""

    def make() -> None:
        path = put("bad.parquet", columns(), **options)
        path.write_bytes(change(path.read_bytes()))

    return make


def flip(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def two_files(second: dict[str, Any] | bytes) -> Make:
    def make() -> None:
        put("bad/a.parquet", columns())
        if isinstance(second, bytes):
            Path("bad/b.parquet").write_bytes(second)
        else:
            put("bad/b.parquet", second)

    return make


def same_name_twice() -> None:
    x, y = map(pa.array, columns().values())
    pq.write_table(pa.Table.from_arrays([x, y, y], names=["x", "y", "y"]), "bad.parquet")


def folder_of_csv() -> None:
    Path("bad").mkdir()
    pa.csv.write_csv(pa.table(columns()), "bad/a.csv")


def no_rows() -> None:
    pq.write_table(pa.table(columns()).slice(0, 0), "bad.parquet")


CHECKED = {"write_page_checksum": True, "compression": "none", "use_dictionary": False}
NOT_OPEN = "bad.parquet as Parquet"
WORDS = ["a", "b"] * 30
NULLS = pa.nulls(ROWS, pa.float64())

# (name, what makes the place, options, exit code, part of the message)
DATA: list[tuple[str, Make, str, int, str]] = [
    ("half a file", bytes_of(lambda b: b[: len(b) // 2]), BAD, 3, NOT_OPEN),
    ("an empty file", Path("bad.parquet").touch, BAD, 3, "file size is 0 bytes"),
    ("four bytes", lambda: Path("bad.parquet").write_bytes(b"PAR1"), BAD, 3, "file size is 4 bytes"),
    ("a text", lambda: Path("bad.parquet").write_text("x,y\n1,2\n" * 50), BAD, 3, NOT_OPEN),
    ("no magic at the end", bytes_of(lambda b: b[:-4] + b"XXXX"), BAD, 3, NOT_OPEN),
    ("an encrypted footer", bytes_of(lambda b: b[:-4] + b"PARE"), BAD, 3, "encrypted"),
    ("a footer too long", bytes_of(lambda b: b[:-8] + b"\xff\xff\xff\x7f" + b[-4:]), BAD, 3, NOT_OPEN),
    ("a footer of no length", bytes_of(lambda b: b[:-8] + bytes(4) + b[-4:]), BAD, 3, NOT_OPEN),
    ("a damaged footer", bytes_of(lambda b: b[:-60] + b"\xff" * 20 + b[-40:]), BAD, 3, NOT_OPEN),
    ("bytes after the end", bytes_of(lambda b: b + bytes(100)), BAD, 3, NOT_OPEN),
    ("a damaged page with checksums", bytes_of(lambda b: flip(b, 200), **CHECKED), BAD, 3, "column 'x' is damaged"),
    ("a page overwritten", bytes_of(lambda b: b[:100] + b"\xff" * 300 + b[400:]), BAD, 3, "row group 0, column 'x'"),
    ("no rows", no_rows, BAD, 3, "no usable row. it is empty"),
    ("no columns", only(), BAD, 3, "no numeric column. it has no column"),
    ("words only", only(x=WORDS), BAD, 3, "no numeric column. it has x"),
    ("dates only", only(x=pa.array(range(60), pa.timestamp("s"))), BAD, 3, "no numeric column. it has x"),
    ("lists", only(x=[[1.0, 2.0]] * 60), BAD + "--columns x", 3, "is list<element: double>, not a number"),
    ("structs", only(x=[{"a": 1.0}] * 60), BAD + "--columns x", 3, "is struct<a: double>, not a number"),
    ("words named", data(w=WORDS), BAD + "--columns x,w", 3, "column 'w' is string, not a number"),
    ("categories", data(w=pa.array(WORDS).dictionary_encode()), BAD + "--columns x,w", 3, "column 'w' is dictionary"),
    ("nulls only", only(x=NULLS), BAD, 3, "column 'x': 60 of 60 values"),
    ("nulls named", data(z=NULLS), BAD + "--columns x,z", 3, "column 'z': 60 of 60 values"),
    ("the type null", data(z=pa.nulls(60)), BAD + "--columns x,z", 3, "column 'z' is null, not a number"),
    (
        "nulls dropped",
        data(z=NULLS),
        BAD + "--columns x,z --missing drop",
        3,
        "columns ['z'] have no value in any row, by the footers of the files",
    ),
    ("untold nulls", untold(z=NULLS), BAD + "--columns x,z", 3, "column 'z': 60 null among these rows"),
    (
        "untold nulls dropped",
        untold(z=NULLS),
        BAD + "--columns x,z --missing drop",
        3,
        "60 rows were read, and all were dropped",
    ),
    ("a null", spoilt("x", None), BAD, 3, "or other columns: in y nothing is null"),
    ("an untold null", untold(x=spoil("x", None)), BAD, 3, "1 null among these rows, the first at row 7"),
    ("a NaN", spoilt("y", np.nan), BAD, 3, "column 'y': 1 nan among these rows, the first at row 7"),
    ("an infinity", spoilt("x", np.inf), BAD, 3, "infinite or beyond 1e150: column 'x': inf"),
    ("an untold infinity", untold(x=spoil("x", np.inf)), BAD, 3, "1 infinite among these rows"),
    ("a value too large", spoilt("x", 1e200), BAD, 3, "infinite or beyond 1e150: column 'x': 1e+200"),
    (
        "an untold value too large",
        untold(x=spoil("x", 1e200)),
        BAD,
        3,
        "1 oversized among these rows, the first at row 7",
    ),
    ("a constant alone", only(x=np.ones(60)), BAD, 8, "none of the 2 candidates is admissible"),
    ("constants only", only(x=np.ones(60), y=np.zeros(60)), BAD, 8, "their rows have no spread"),
    ("one row", only(x=[1.0], y=[2.0]), BAD, 8, "2 components need at least as many rows, and there are 1"),
    ("too few rows", data(), SWEEP + "--n-components 100 --paths bad.parquet", 8, "need at least as many rows"),
    ("two columns of one name", same_name_twice, BAD, 3, "column 'y' is there 2 times"),
    (
        "a file lacks a column",
        two_files({"x": [1.0]}),
        FOLDER + "--columns x,y",
        3,
        "there is no column 'y'. It has: x",
    ),
    ("no column in common", two_files({"a": [1.0]}), FOLDER, 3, "column 'x' is not there"),
    ("words in one file", two_files({"x": WORDS, "y": WORDS}), FOLDER + "--columns x", 3, "column 'x' is string"),
    ("a damaged file of two", two_files(b"PAR1 and no more"), FOLDER, 3, "bad/b.parquet as Parquet"),
    ("an empty file of two", two_files(b""), FOLDER, 3, "bad/b.parquet as Parquet. Parquet file size is 0 bytes"),
    ("a link to nothing", lambda: Path("bad.parquet").symlink_to("gone"), BAD, 3, "no file or folder bad.parquet"),
    ("an empty folder", Path("bad.parquet").mkdir, BAD, 3, "no Parquet file matches bad.parquet"),
    ("CSV", lambda: pa.csv.write_csv(pa.table(columns()), "a.csv"), "--paths a.csv", 3, "format='csv'"),
    ("JSON", lambda: Path("a.json").write_text('{"x": 1.0}'), "--paths a.json", 3, "format='json'"),
    (
        "Feather",
        lambda: pa.feather.write_feather(pa.table(columns()), "a.feather"),
        "--paths a.feather",
        3,
        "'feather'",
    ),
    ("ORC", lambda: pa.orc.write_table(pa.table(columns()), "a.orc"), "--paths a.orc", 3, "format='orc'"),
    ("a folder of CSV", folder_of_csv, FOLDER, 3, "only Parquet is read"),
    (
        "weights below zero",
        data(w=np.linspace(-1, 1, 60)),
        BAD + "--weight w",
        3,
        "the weight of a row is negative, by the footers",
    ),
    ("untold weights below zero", untold(w=np.linspace(-1, 1, 60)), BAD + "--weight w", 3, "of row 0 is negative"),
    ("weights of zero", data(w=np.zeros(60)), BAD + "--weight w", 3, "all were dropped"),
    ("a weight of NaN", data(w=[np.nan] * 60), BAD + "--weight w", 3, "column 'w': 60 nan"),
    ("an infinite weight", data(w=[np.inf] * 60), BAD + "--weight w", 3, "column 'w': inf"),
    ("weights in words", data(w=WORDS), BAD + "--weight w", 3, "column 'w' is string, not a number"),
    ("no such weight", data(), BAD + "--weight w", 3, "weight: there is no column 'w'. There are: x, y"),
    ("a filter of no row", data(), BAD + "--filter 'x > 1000'", 3, "no row matches the filter"),
    ("half a filter", data(), BAD + "--filter 'x >'", 2, "the filter 'x >' cannot be read"),
    ("a filter of an unknown column", data(), BAD + "--filter 'q > 1'", 3, "the filter needs one column 'q'. It has"),
    ("a filter that calls", data(), BAD + "--filter '__import__(\"os\").abort()'", 3, "the filter"),
    ("a filter of words", data(), BAD + "--filter 'x > \"a\"'", 2, "cannot be used"),
    ("a pattern of nothing", data(), BAD + "--columns 'z*'", 3, "columns: no column matches 'z*'"),
    ("an unknown type", data(), BAD + "--columns dtype:complex", 2, "unknown type 'dtype:complex'. Known: float"),
    ("all excluded", data(), BAD + "--exclude-columns '*'", 3, "no numeric column"),
    ("an excluded unknown", data(), BAD + "--exclude-columns q", 3, "exclude_columns: there is no column 'q'"),
    (
        "a sentinel of an unknown",
        data(),
        BAD + "--sentinel '{q: -1}'",
        2,
        "sentinel names 'q'. There is no such column",
    ),
    ("a sentinel in words", data(), BAD + "--sentinel '{x: none}'", 2, "data.sentinel.x"),
    (
        "a step of an unknown",
        data(),
        BAD + "--resolution '{q: 1}'",
        2,
        "em.resolution: there is no column 'q'. There are: x, y",
    ),
    ("a step below zero", data(), BAD + "--resolution '{x: -1}'", 2, "must not be negative"),
    ("an unknown transform", data(), BAD + "--transforms sqrt", 2, "unknown transform of * 'sqrt'"),
    (
        "a transform of an unknown",
        data(),
        BAD + "--transforms '{q: log}'",
        2,
        "em.transforms: there is no column 'q'",
    ),
    ("a logarithm of minus one", data(), BAD + "--transforms log", 3, "log is defined above 0"),
]


def model_of(change: Callable[[bytes], bytes] = lambda b: b, k: int = 2, table: dict[str, Any] | None = None) -> Make:
    """Good data, and the file of a model whose bytes were changed."""

    def make() -> None:
        put("in/a.parquet", columns())
        sg.save_model(sg.fit(put("of.parquet", table or columns()), k, "diag"), "m.gmm")
        Path("of.parquet").unlink()
        Path("m.gmm").write_bytes(change(Path("m.gmm").read_bytes()))

    return make


def run_folder(change: Callable[[Path], Any] = lambda _: None) -> Make:
    """A finished run with scores, and what was done to it."""

    def make() -> None:
        put("in/a.parquet", columns())
        settings = {"covariance_type": ["diag"], "n_components": [1, 2]}
        config = {
            "data": {"paths": "in"}, "sweep": settings, "em": {"n_init": 1}, "output": {"folder": "run"},
        }  # fmt: skip

        job = validate_config(config, "test")
        sweep_stage(job, SerialExecutor())
        score_stage(job, SerialExecutor())
        change(Path("run"))

    return make


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Make:
    def apply(folder: Path) -> None:
        path = (folder / name).resolve()
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(change(content))

    return run_folder(apply)


def stream_state() -> None:
    put("in/a.parquet", columns())
    sg.OnlineGaussianMixture(2).partial_fit(np.column_stack(list(columns().values()))).save("m.gmm")


CATALOG = ".results/current/versions.json"
SCORE = "score --executor serial --paths in --folder out --model m.gmm"
AGAIN = "sweep --executor serial --paths in --folder run --n-components 1 --sweep.covariance-type diag"
RESAMPLE = "bootstrap --executor serial --paths in --folder run --replicates 2"
OWN = "score --executor serial --paths in --folder run"

COMMANDS: list[tuple[str, Make, str, int, str]] = [
    ("a model of no bytes", model_of(lambda b: b""), SCORE, 4, "not a stream-gmm model file"),
    ("half a model", model_of(lambda b: b[: len(b) // 2]), SCORE, 4, "damaged or truncated"),
    ("a text for a model", model_of(lambda b: b"weights: [0.5, 0.5]"), SCORE, 4, "not a stream-gmm model file"),
    ("a model with a flipped bit", model_of(lambda b: flip(b, len(b) // 2)), SCORE, 4, "its digest does not match"),
    ("a model with a flipped header", model_of(lambda b: flip(b, 20)), SCORE, 4, "this version reads up to"),
    ("a model with bytes after it", model_of(lambda b: b + b"more"), SCORE, 4, "its digest does not match"),
    ("a model twice", model_of(lambda b: b + b), SCORE, 4, "its digest does not match"),
    (
        "a pickle for a model",
        model_of(lambda b: b"\x80\x04cos\nsystem\n(S'touch gone'\ntR."),
        SCORE,
        4,
        "not a stream-gmm model file",
    ),
    (
        "Parquet for a model",
        model_of(),
        SCORE.replace("m.gmm", "in/a.parquet"),
        4,
        "in/a.parquet: this is not a stream-gmm model",
    ),
    (
        "a folder for a model",
        model_of(),
        SCORE.replace("m.gmm", "in"),
        4,
        "in is a folder, and neither a model file nor the folder of a run",
    ),
    ("a stream state for a model", stream_state, SCORE, 4, "not a stream-gmm model file"),
    (
        "a model of other columns",
        model_of(table={"p": columns()["x"], "q": columns()["y"]}),
        SCORE,
        3,
        "columns: there is no column 'p'.",
    ),
    (
        "a model of more columns",
        model_of(table=columns(z=columns()["x"] ** 2)),
        SCORE,
        3,
        "columns: there is no column 'z'. There are: x, y",
    ),
    (
        "outliers of two kinds",
        model_of(),
        SCORE + " --outlier '{contamination: 0.1, chi_square: 0.9}'",
        2,
        "takes exactly one of",
    ),
    (
        "a contamination of 2",
        model_of(),
        SCORE + " --outlier '{contamination: 2}'",
        2,
        "contamination is a share of the rows",
    ),
    ("an unknown rule of outliers", model_of(), SCORE + " --outlier '{distance: 2}'", 2, "not 'distance'"),
    ("a partition by no column", model_of(), SCORE + " --partition-by q", 2, "score.partition_by names 'q'"),
    ("an unknown compression", model_of(), SCORE + " --compression zip", 2, "did you mean 'gzip'"),
    ("files of no rows", model_of(), SCORE + " --rows-per-file 0", 2, "score.rows_per_file"),
    ("imputation without marginalise", model_of(), SCORE + " --impute", 2, "set data.missing to marginalise"),
    ("scores into the data", model_of(), SCORE + " --scored in", 2, "is the input"),
    ("an export of nothing", model_of(lambda b: b""), "export m.gmm --format json", 4, "not a stream-gmm model file"),
    ("an unknown format", model_of(), "export m.gmm --format pickle", 2, "'pickle' is not one of"),
    ("an inspection of half a model", model_of(lambda b: b[:-50]), "inspect m.gmm", 4, "damaged or truncated"),
    ("a history of no run", model_of(), "history in", 3, "in is not the folder of a run"),
    ("a verification of no run", model_of(), "verify in", 2, "neither a run nor a scored table"),
    ("a cleaning of no run", model_of(), "clean in", 2, "neither a run nor a scored table"),
    ("an update of no run", model_of(), "update --paths in --folder in", 3, "in is not the folder of a run"),
    ("a monitor without a model", model_of(), "monitor --paths in --folder out", 3, "out is not the folder of a run"),
    ("an unknown version", run_folder(), "promote run v7", 2, "there is no version 'v7'"),
    ("a rollback of the first", run_folder(), "rollback run", 2, "no earlier champion"),
    ("a difference to an unknown", run_folder(), "diff run v1 v2", 2, "there is no version 'v2'"),
    ("a report of a damaged record", rewrite("run.json", lambda b: b"{}"), "report run", 3, "it lacks chosen"),
    (
        "a report of half a record",
        rewrite("run.json", lambda b: b[: len(b) // 2]),
        "report run",
        3,
        "is not the folder of a run. run.json: ",
    ),
    (
        "a report of half a table",
        rewrite("sweep.parquet", lambda b: b[: len(b) // 2]),
        "report run",
        3,
        "cannot read the table",
    ),
    (
        "a verified run with a damaged model",
        rewrite("model.gmm", lambda b: flip(b, len(b) - 40)),
        "verify run",
        4,
        "DAMAGED run",
    ),
    (
        "a damaged model of a run",
        rewrite("model.gmm", lambda b: flip(b, len(b) // 2)),
        OWN,
        4,
        "run/model.gmm: the model file is damaged",
    ),
    (
        "a damaged catalog",
        rewrite(CATALOG, lambda b: flip(b, len(b) // 2)),
        "history run",
        3,
        "its SHA-256 does not match",
    ),
    (
        "a damaged catalog for a sweep",
        rewrite(CATALOG, lambda b: b"[]"),
        AGAIN,
        3,
        "versions.json is damaged. it holds a list",
    ),
    (
        "a damaged manifest",
        rewrite("scored/_manifest.json", lambda b: flip(b, 40)),
        OWN,
        6,
        "its SHA-256 does not match",
    ),
    (
        "a manifest of another format",
        rewrite("scored/_manifest.json", lambda b: b'{"format": 99}'),
        OWN,
        6,
        "also holds files that stream-gmm has not written",
    ),
    (
        "a bootstrap of a folder without data",
        run_folder(lambda f: shutil.rmtree("in")),
        RESAMPLE,
        3,
        "there is no file or folder in",
    ),
]


def _read_all(folder: Path) -> dict[str, str]:
    """Return a digest of every file, and every folder; without ledgers, which a run that has begun leaves."""
    found = {str(p.relative_to(folder)): p for p in folder.rglob("*")}
    return {
        name: hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else "folder"
        for name, p in found.items()
        if "ledger" not in p.parts and not (p.is_dir() and [*p.iterdir()] == [p / "ledger"])
    }


CASES = [
    (n, make, SWEEP + o if "--paths" in o and not o.startswith("sweep") else o, c, m) for n, make, o, c, m in DATA
]


@pytest.mark.parametrize(
    ("make", "command", "code", "message"),
    [case[1:] for case in CASES + COMMANDS],
    ids=[case[0] for case in CASES + COMMANDS],
)
def test_what_is_wrong_is_said_and_nothing_is_changed(make, command, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make()
    before = _read_all(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stream-gmm", *shlex.split(command)])
    with pytest.raises(SystemExit) as end:
        main()
    captured = capsys.readouterr()
    output = captured.out + captured.err

    assert end.value.code == code, output
    assert message in output
    assert "Traceback" not in output
    assert _read_all(tmp_path) == before
