"""Files that change together: every state of them is a folder of its own, and one link names the current one.

::

    run/.results/000007/model.gmm, run.json ...    a state: complete, never changed
    run/.results/current -> 000007                 replaced in one atomic step
    run/model.gmm -> .results/current/model.gmm    so that the usual path shows the current state

A process that is killed at any point leaves the old state current, or the new one; never a mixture.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from stream_gmm.errors import StorageError, explain
from stream_gmm.faults import fault_site
from stream_gmm.io.store.container import seal, unseal, write_atomically
from stream_gmm.io.store.folders import exchange_paths, lock_folder, sync_folder

log = logging.getLogger(__name__)

# Hidden from readers of Parquet folders.
STATES = ".results"
CURRENT = "current"
CHECKSUMS = "checksums.json"
"""In a state: size and SHA-256 of its files."""


def current_state(folder: Path) -> Path:
    """Return the folder that holds the current files of ``folder``: what is read from it belongs together.

    It is ``folder`` itself where nothing has been published in states. A state stays readable until two more are
    published, or for as long as the current one refers to it.
    """
    pointer = folder / STATES / CURRENT
    return folder / STATES / os.readlink(pointer) if pointer.is_symlink() else folder


def publish_state(
    folder: Path,
    names: Sequence[str],
    write: Callable[[Path], object],
    base: Path | None = None,
    keep: Callable[[Path], Collection[str]] = lambda _: (),
) -> bool:
    """Replace the files ``names`` of a folder together, in one atomic step.

    Parameters
    ----------
    names
        Files and folders that belong to the state; everything else in ``folder`` is left alone.
    write
        Called with an empty folder, into which it writes the new files.
    base
        A state from :func:`current_state`: what ``write`` does not write is taken over from it. Nothing is published
        if another process has published since. None: what is not written is not there any more.
    keep
        Returns the names of the further states that a state refers to, which therefore stay.

    Returns
    -------
    bool
        Whether the new state was published.

    Raises
    ------
    StorageError
        If the folder cannot be written; the previous state is still the current one.
    """
    states = folder / STATES
    try:
        states.mkdir(parents=True, exist_ok=True)
        with lock_folder(states, wait=True):
            if base is not None and current_state(folder) != base:
                return False
            _adopt_plain_files(folder, names)
            previous = current_state(folder)
            _remove_states(states, keep=(previous, *(states / n for n in keep(previous))))
            staged = make_state(states)
            try:
                write(staged)
                if base is not None:
                    link_tree(previous, staged, [n for n in names if not (staged / n).exists()])
                write_checksums(staged)
                fault_site("results")
                _show_in_folder(folder, staged, names)
                _make_current(staged)
            except BaseException:
                if current_state(folder) != staged:
                    _remove(staged)
                raise
            try:
                sync_folder(states)
                _hide_absent(folder, staged, names)
                others = [states / name for state in (previous, staged) for name in keep(state)]
                _remove_states(states, keep=(previous, staged, *others))
            except OSError as error:  # what is current is published
                log.warning("the results in %s are published, and earlier ones were not removed: %s", folder, error)
    except OSError as error:
        raise StorageError(
            explain(
                f"cannot publish the results in {folder}",
                why=str(error),
                remedy="check the folder and the space left; what was there before is untouched",
            )
        ) from error
    return True


def make_state(states: Path) -> Path:
    """Make the folder of a new state; it stays only if the next current state refers to it, or is it."""
    numbers = [int(p.name) for p in states.iterdir() if p.name.isdigit()]
    staged = states / f"{max(numbers, default=0) + 1:06d}"
    staged.mkdir()
    return staged


def write_checksums(state: Path) -> None:
    """Write size and SHA-256 of all files of a state into it."""
    files = {
        path.relative_to(state).as_posix(): [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()]
        for path in sorted(state.rglob("*"))
        if path.is_file() and path.name != CHECKSUMS
    }
    write_atomically(state / CHECKSUMS, seal({"files": files}))


def find_damage(state: Path) -> dict[str, str] | None:
    """Return what is wrong with the files of a state, by their names; None if it has no checksums.

    States of earlier releases have none.
    """
    try:
        files = unseal((state / CHECKSUMS).read_bytes())["files"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError) as error:
        return {CHECKSUMS: f"cannot be read: {error}"}
    found = {}
    for name, (size, sha256) in files.items():
        try:
            content = (state / name).read_bytes()
        except OSError as error:
            found[name] = str(error.strerror)
            continue
        if len(content) != size:
            found[name] = f"has {len(content):,} bytes, and {size:,} were written"
        elif hashlib.sha256(content).hexdigest() != sha256:
            found[name] = "its SHA-256 does not match"
    return found


def _make_current(staged: Path) -> None:
    sync_folder(staged)
    replace_by_link(staged.parent / CURRENT, staged.name)


def _show_in_folder(folder: Path, state: Path, names: Sequence[str]) -> None:
    """Make ``folder/name`` a link to the file of that name in whatever state is current."""
    for name in names:
        shown, target = folder / name, os.path.join(STATES, CURRENT, name)
        if (state / name).exists() and not (shown.is_symlink() and os.readlink(shown) == target):
            replace_by_link(shown, target)


def _hide_absent(folder: Path, state: Path, names: Sequence[str]) -> None:
    for name in names:
        if not (state / name).exists():
            _remove(folder / name)


def replace_by_link(path: Path, target: str) -> None:
    """Make a path a link, in one atomic step; what was there goes."""
    aside = path.with_name(f".{path.name}.link")
    _remove(aside)
    os.symlink(target, aside)
    if path.is_dir() and not path.is_symlink():  # which a plain rename cannot replace
        if not exchange_paths(aside, path):
            _remove(path)
            os.replace(aside, path)
        _remove(aside)
    else:
        os.replace(aside, path)


def _adopt_plain_files(folder: Path, names: Sequence[str]) -> None:
    """Make the plain files of an earlier version the first state."""
    plain = [n for n in names if (folder / n).exists()]
    if plain and not (folder / STATES / CURRENT).is_symlink():
        _remove_states(folder / STATES, keep=())
        first = make_state(folder / STATES)
        link_tree(folder, first, plain)
        # The other order than for a new state: a link must not replace a file before it leads to one.
        _make_current(first)
        _show_in_folder(folder, first, names)


def link_tree(source: Path, target: Path, names: Sequence[str]) -> None:
    """Take files and folders over from another state, as hard links where the file system has them."""
    for name in names:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, copy_function=_link_file)
        elif (source / name).exists():
            _link_file(str(source / name), str(target / name))


def _link_file(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _remove_states(states: Path, keep: Sequence[Path]) -> None:
    """Remove the states that no reader needs, and what killed processes left."""
    for path in states.iterdir():
        if path.name != CURRENT and path not in keep:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
