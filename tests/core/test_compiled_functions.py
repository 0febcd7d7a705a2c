"""What is compiled: once for all processes, also where nothing can be kept, and called by address."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from numba import types
from numba.core.errors import TypingError

from stream_gmm.core.compiled import decorator
from stream_gmm.core.compiled.cache import FileLock
from stream_gmm.core.compiled.calls import address_of, make_call
from stream_gmm.core.compiled.decorator import compiled

HOLDER = """
import sys, pathlib
from stream_gmm.core.compiled.cache import FileLock
print(FileLock(pathlib.Path(sys.argv[1]), "a function").wait(1.0), flush=True)
sys.stdin.read()
"""
COUNTED = """
from stream_gmm.core.compiled.decorator import compiled

@compiled()
def add(x):
    total = 0.0
    for value in x:
        total += value
    return total
"""
CALLER = """
import numpy as np, counted, sys
print("ready", flush=True)
sys.stdin.readline()
assert counted.add(np.ones(5)) == 5.0
print(sum(counted.add.stats.cache_misses.values()))
"""
ROW = types.float64[::1]


@compiled()
def _add_up(values):
    total = 0.0
    for value in values:
        total += value
    return total


@compiled()
def _multiply(values):
    total = 1.0
    for value in values:
        total *= value
    return total


_call = make_call(types.float64(ROW))


@compiled(internal=True)
def _double(x):
    return 2.0 * x


@compiled()
def _quadruple(x):
    return _double(_double(x))


@compiled()
def call_it(address, values):
    return _call(address, values)


@pytest.mark.slow
def test_the_lock_is_one_process_s_until_it_ends(tmp_path):
    lock, other = FileLock(tmp_path / "lock", "a function"), FileLock(tmp_path / "lock", "another")
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert not lock.wait(0.1)
        assert other.wait(0.1)
        holder.kill()
    assert lock.wait(10.0)
    lock.release()


def test_without_a_place_for_the_lock_nobody_waits(tmp_path):
    (tmp_path / "file").write_text("")
    assert not FileLock(tmp_path / "file" / "lock", "a function").wait(60.0)


@pytest.mark.slow
def test_of_processes_that_need_a_function_at_once_one_compiles_it(tmp_path):
    (tmp_path / "counted.py").write_text(COUNTED)
    path = os.pathsep.join([str(tmp_path), *sys.path])
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": path}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", CALLER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(int(process.communicate()[0]) for process in processes) == [0, 0, 1]


def test_where_nothing_can_be_kept_functions_work_and_it_is_said_once(monkeypatch):
    def refuse(function):
        raise RuntimeError("cannot cache function: no locator available")

    monkeypatch.setattr(decorator, "SharedCache", refuse)
    decorator._warn_of_no_cache.cache_clear()
    with pytest.warns(UserWarning, match="NUMBA_CACHE_DIR") as told:
        functions = [compiled()(lambda x, n=n: x + n) for n in (1, 2)]
    assert len(told) == 1
    assert functions[0](1.0, 1.0) == 2.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled()(lambda x: 2 * x)(1.5) == 3.0


def test_a_call_by_address_is_that_of_the_function():
    values = np.array([2.0, 3.0, 4.0])
    signature = types.float64(ROW)
    assert [call_it(address_of(f, signature), values) for f in (_add_up, _multiply)] == [9.0, 24.0]
    with pytest.raises(TypingError, match="argument 0"):
        call_it(address_of(_add_up, signature), values.astype(np.float32))


def test_an_internal_function_cannot_be_called_from_python():
    for _ in range(2):  # before and after it is compiled
        with pytest.raises(TypeError, match="_double is compiled for calls by compiled functions only"):
            _double(1.0)
        assert _quadruple(1.0) == 4.0


def test_a_function_that_cannot_be_compiled_leaves_no_lock(tmp_path):
    function, path = compiled()(lambda x: x + "text"), tmp_path / "lock"
    function._cache._lock = FileLock(path, "a function")
    with pytest.raises(TypingError):
        function(1.0)
    command = [sys.executable, "-c", HOLDER, str(path)]
    assert subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout == "True\n"
