"""Which files are read: patterns as in pathlib and fsspec, known endings, never our own output."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest

import stream_gmm as sg
from stream_gmm.errors import InputDataError
from stream_gmm.io.source.listing import find_files, match_pattern

fsspec = pytest.importorskip("fsspec")

NAMES = [f"part-{i}.parquet" for i in range(6)] + ["part-10.parquet", "other.parquet", "a]b.parquet", "x-y.parquet"]
FOLDERS = ["", "day=1/", "day=2/", "day=2/deep/er/", "a.b/"]
PATTERNS = [
    "part-[0-3].parquet", "part-[!0].parquet", "part-[!0-2].parquet", "part-[135].parquet", "part-?.parquet",
    "part-*.parquet", "*.parquet", "[a-o]*.parquet", "a[]]b.parquet", "x[-a]y.parquet", "x[a-]y.parquet",
    "part-[0-24].parquet", "part-[[]*", "part-[.parquet", "*[0-9].parquet",
]  # fmt: skip
PREFIXES = ["", "*/", "**/", "day=[12]/", "day=[!1]/", "day=?/**/", "**/er/", "*.b/"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("tree")
    table = pa.table({"x": [1.0]})
    for folder, name in product(FOLDERS, NAMES):
        (root / folder).mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / folder / name)
    return root


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_pattern_selects_what_pathlib_selects(tree, prefix):
    for pattern in (prefix + p for p in PATTERNS):
        expected = {str(p) for p in tree.glob(pattern) if p.is_file()}
        if expected:
            assert {f.path for f in find_files([f"{tree}/{pattern}"]).files} == expected, pattern
        else:
            with pytest.raises(InputDataError, match="no Parquet file matches"):
                find_files([f"{tree}/{pattern}"])


def test_keys_of_an_object_store_match_as_in_fsspec():
    memory = fsspec.filesystem("memory")
    keys = [f"bucket/{folder}{name}" for folder, name in product(FOLDERS, NAMES)]
    for key in keys:
        memory.pipe_file(f"/{key}", b"")
    for pattern in (f"bucket/{prefix}{p}" for prefix, p in product(PREFIXES, PATTERNS)):
        expected = {k.lstrip("/") for k in memory.glob(f"/{pattern}")}
        assert {k for k in keys if match_pattern(k, pattern)} == expected, pattern
    memory.rm("/bucket", recursive=True)


def test_patterns_of_an_object_store_read_the_same_files(s3):
    s3.create_dir("bucket-glob")
    for i in range(5):
        pq.write_table(pa.table({"x": [float(i)]}), f"bucket-glob/in/part-{i}.parquet", filesystem=s3)

    def numbers(pattern):
        return [f.relative[5] for f in find_files([f"s3://bucket-glob/in/{pattern}"]).files]

    assert numbers("part-[0-3].parquet") == list("0123")
    assert numbers("part-[!0].parquet") == list("1234")
    assert numbers("part-?.parquet") == list("01234")


def test_two_stars_beside_other_characters_are_refused_as_in_pathlib(tree):
    if sys.version_info < (3, 13):  # pathlib takes them for one star from then on
        with pytest.raises(ValueError, match=r"\*\*"):
            list(tree.glob("a**.parquet"))
    with pytest.raises(InputDataError, match=r"'\*\*' beside other characters.*write"):
        find_files([f"{tree}/**.parquet"])


class TestEndings:
    @pytest.fixture
    def mixed(self, tmp_path):
        for i, name in enumerate(["a.parquet", "b.parq", "c.pq", "d.PARQUET", "e.Pq", "part-00000", "f.snappy"]):
            (tmp_path / "in").mkdir(exist_ok=True)
            pq.write_table(pa.table({"x": np.arange(100.0) + i}), tmp_path / "in" / name)
        (tmp_path / "in" / "README").write_text("not data")
        (tmp_path / "in" / "_SUCCESS").write_text("")
        return tmp_path / "in"

    def test_known_endings_are_read_in_any_case_and_the_others_are_named(self, mixed):
        data = sg.open_dataset(mixed)

        assert [f.relative for f in data.files] == ["a.parquet", "b.parq", "c.pq", "d.PARQUET", "e.Pq"]
        (warning,) = data.warnings
        assert "2 files" in warning
        assert "f.snappy, part-00000" in warning
        assert warning in sg.fit(data, 1).warnings
        assert warning in sg.sweep(data, [1], "full").warnings

    def test_the_remedy_works(self, mixed):
        assert sg.open_dataset([mixed, mixed / "part-00000", mixed / "f.snappy"]).num_rows == 700

    def test_a_folder_with_no_known_ending_names_the_files_in_its_error(self, tmp_path):
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / "part-0")
        with pytest.raises(InputDataError, match="begin as Parquet does .part-0."):
            sg.open_dataset(tmp_path)

    def test_an_object_store(self, s3):
        s3.create_dir("bucket-endings")
        for name in ("a.PARQUET", "b.pq", "part-0"):
            pq.write_table(pa.table({"x": [1.0]}), f"bucket-endings/in/{name}", filesystem=s3)
        data = sg.open_dataset("s3://bucket-endings/in")

        assert [f.relative for f in data.files] == ["a.PARQUET", "b.pq"]
        assert "1 files below s3://bucket-endings/in" in data.warnings[0]

    def test_links_to_folders_elsewhere_are_named(self, tmp_path):
        for name in ("in", "elsewhere"):
            (tmp_path / name).mkdir()
            pq.write_table(pa.table({"x": [1.0]}), tmp_path / name / "a.parquet")
        os.symlink(tmp_path / "elsewhere", tmp_path / "in" / "link")

        assert "1 links" in sg.open_dataset(tmp_path / "in").warnings[0]


class TestOwnOutput:
    @pytest.fixture
    def published(self, tmp_path, rng):
        """600 rows in in/, and their scores below in/."""
        for i in range(2):
            (tmp_path / "in").mkdir(exist_ok=True)
            table = pa.table({"x": rng.normal(size=300), "y": rng.normal(size=300)})
            pq.write_table(table, tmp_path / "in" / f"part-{i}.parquet")
        model = sg.fit(tmp_path / "in", 1)
        sg.score(model, sg.open_dataset(tmp_path / "in"), tmp_path / "in" / "out" / "scored")
        return tmp_path / "in"

    @pytest.mark.parametrize("pattern", ["", "/**/part-*.parquet", "/**", "/*/*/*.parquet"])
    def test_scores_below_the_input_are_not_read(self, published, pattern):
        assert len(list(published.glob("**/part-*.parquet"))) == 4
        if pattern == "/*/*/*.parquet":
            with pytest.raises(InputDataError, match="2 files .* output of earlier runs .out/scored."):
                sg.open_dataset(f"{published}{pattern}")
            return
        data = sg.open_dataset(f"{published}{pattern}")

        assert data.num_rows == 600
        assert "2 files" in data.warnings[0]
        assert "out/scored" in data.warnings[0]

    def test_a_staging_folder_is_not_read(self, published):
        staging = published / "out" / "._scored.0123456789abcdef.staging"
        os.rename(published / "out" / "scored", staging)
        (staging / "_manifest.json").unlink()

        assert sg.open_dataset(f"{published}/**/part-*.parquet").num_rows == 600

    def test_a_run_folder_is_not_read(self, published):
        run = published / "run"
        run.mkdir()
        for name in ("sweep.parquet", "sample.parquet", "bootstrap.parquet"):
            pq.write_table(pa.table({"x": [1.0], "y": [1.0]}), run / name)
        (run / "run.json").write_text("{}")

        assert sg.open_dataset(published).num_rows == 600

    def test_what_is_named_is_read(self, published):
        assert sg.open_dataset(published / "out" / "scored", columns=["x"]).num_rows == 600

    def test_a_manifest_of_another_program_hides_nothing(self, published):
        (published / "out" / "scored" / "_manifest.json").write_text('{"files": []}')
        assert sg.open_dataset(f"{published}/**/part-*.parquet", columns=["x"]).num_rows == 1200


def test_a_path_with_wild_cards_in_its_name_is_taken_literally(tmp_path):
    path = Path(tmp_path / "a[1].parquet")
    pq.write_table(pa.table({"x": [1.0, 2.0]}), path)

    assert sg.open_dataset(path).num_rows == 2


class TestOtherTables:
    """A table whose log says which files count is refused: reading all of them would count deleted rows."""

    LOGS = {
        "Delta": "_delta_log/00000000000000000000.json",
        "Iceberg": "metadata/00000-1.metadata.json",
        "Hudi": ".hoodie/hoodie.properties",
    }

    @pytest.fixture(params=LOGS)
    def kind(self, request, tmp_path):
        table = tmp_path / "lake" / "table"
        for i, folder in enumerate(("", "data", "day=1")):
            (table / folder).mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.table({"x": [float(i)]}), table / folder / f"part-{i}.parquet")
        log = table / self.LOGS[request.param]
        log.parent.mkdir()
        log.write_text("{}")
        return request.param

    @pytest.mark.parametrize("given", ["table", "", "table/day=1", "table/*.parquet", "**/*.parquet", "table/data/*"])
    def test_its_folder_is_refused_however_it_is_named(self, kind, given, tmp_path):
        message = f"a {kind} table: .*lake/table holds .*deleted or replaced.*(files|folder of the table)"
        if kind in ("Delta", "Iceberg") and given == "table":  # it is read, through its log
            message = f"cannot read the {kind} table .*lake/table"
        with pytest.raises(InputDataError, match=message):
            sg.open_dataset(tmp_path / "lake" / given)

    def test_the_remedy_works(self, kind, tmp_path):
        table = tmp_path / "lake" / "table"
        files = [table / "part-0.parquet", table / "day=1" / "part-2.parquet"]  # as file_uris() lists them

        assert sg.open_dataset(files).num_rows == 2

    def test_a_neighbour_is_read(self, kind, tmp_path):
        (tmp_path / "lake" / "plain").mkdir()
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / "lake" / "plain" / "a.parquet")

        assert sg.open_dataset(tmp_path / "lake" / "plain").num_rows == 1
        assert sg.open_dataset(str(tmp_path / "lake" / "p*" / "*.parquet")).num_rows == 1

    def test_an_object_store(self, s3):
        s3.create_dir("bucket-delta")
        pq.write_table(pa.table({"x": [1.0]}), "bucket-delta/t/a.parquet", filesystem=s3)
        with s3.open_output_stream("bucket-delta/t/_delta_log/0.json") as file:
            file.write(b"{}")
        with pytest.raises(InputDataError, match="1 files of a Delta table"):
            sg.open_dataset("s3://bucket-delta")
        with pytest.raises(InputDataError, match="cannot read the Delta table s3://bucket-delta/t"):
            sg.open_dataset("s3://bucket-delta/t")


class TestOtherFormats:
    """The command that an error gives makes Parquet with the same rows."""

    @pytest.mark.parametrize("ending", ["csv", "json", "orc", "feather"])
    @pytest.mark.parametrize("by_folder", [False, True])
    @pytest.mark.slow
    def test_the_conversion_in_the_message_works(self, tmp_path, ending, by_folder):
        table = pa.table({"x": [1.5, 2.5, -3.0], "k": [1, 2, 3]})
        path = tmp_path / f"a.{ending}"
        if ending == "csv":
            csv.write_csv(table, path)
        elif ending == "json":
            path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
        elif ending == "orc":
            orc.write_table(table, path)
        else:
            feather.write_feather(table, path)
        with pytest.raises(InputDataError, match="only Parquet is read; convert it") as error:
            sg.open_dataset(tmp_path if by_folder else path)
        (command,) = re.findall(r'python -c "(.*)"', str(error.value))
        subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)

        assert pq.read_table(tmp_path / "a-parquet").to_pydict() == table.to_pydict()
        assert sg.open_dataset(tmp_path / "a-parquet").num_rows == 3

    def test_files_beside_parquet_are_named(self, tmp_path):
        pq.write_table(pa.table({"x": [1.0]}), tmp_path / "a.parquet")
        (tmp_path / "b.csv").write_text("x\n1\n")
        (tmp_path / "c.json").write_text("{}")  # describes the others

        assert "1 files below" in sg.open_dataset(tmp_path).warnings[0]
        assert "b.csv" in sg.open_dataset(tmp_path).warnings[0]
