"""A stream of Arrow record batches: every batch is scored by the model before it, and then updates the model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from stream_gmm.core.model.density import compile_density
from stream_gmm.core.online import OnlineState, feed_rows
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.errors import ConfigError, InputDataError, explain
from stream_gmm.io.sink.stream import WriteTable, decode_batch, record_batches, score_batch
from stream_gmm.io.source.chunks import Chunk
from stream_gmm.io.source.schema import numeric_columns
from stream_gmm.io.store.states import SavedStream, load_state, save_state

SAVE_ROWS = 1_000_000


@dataclass(frozen=True)
class StreamOptions:
    """How a stream is read, written and saved.

    Parameters
    ----------
    columns
        Columns to fit; None: all numeric ones of the stream.
    missing
        ``"drop"`` or ``"error"``.
    passthrough
        Carry the input's columns over to the scored batches.
    proba
        ``"columns"``, ``"list"`` or ``"none"``.
    save_rows
        Save the state after so many rows, and at the end.
    replay
        The input starts again from its first batch: skip the batches that the state already holds.
    """

    columns: tuple[str, ...] | None = None
    missing: str = "drop"
    passthrough: bool = True
    proba: str = "columns"
    save_rows: int = SAVE_ROWS
    replay: bool = False


@dataclass(frozen=True)
class StreamReport:
    """The result of a stream: the saved state, and how many rows and batches were read, dropped and skipped."""

    saved: SavedStream
    rows: int
    dropped: int
    skipped: int


class Follower(Protocol):
    """Follows a stream from period to period; a period ends where the state is about to be saved."""

    def begin(self, saved: SavedStream) -> None:
        """Prepare for the period that begins behind this state."""

    def observe(self, chunk: Chunk) -> None:
        """Take in a batch of the period."""

    def end(self, saved: SavedStream) -> None:
        """Conclude the period. After a kill, the stream may be replayed from its beginning, and this comes again."""


def run_stream(
    source: BinaryIO,
    state_path: str | os.PathLike[str],
    rule: OnlineRule,
    options: StreamOptions,
    write: WriteTable | None = None,
    follower: Follower | None = None,
) -> StreamReport:
    """Read Arrow IPC record batches to their end; resume from the state file if there is one.

    ``write`` gets the scored rows of every batch, from the model as it was before that batch; ``follower`` gets the
    batches of every period, which ends with the state being saved.

    Raises
    ------
    InputDataError
        If the input is no Arrow IPC stream, or a value cannot be used. The state file then holds every batch before
        the bad one, as it does after any other error.
    ConfigError
        If the state was made with other options.
    """
    batches = record_batches(source)
    first = next(batches, None)
    saved = _open_state(state_path, rule, options, first)
    rows = dropped = unsaved = 0
    skip = saved.batches if options.replay else 0
    if follower is not None:
        follower.begin(saved)

    def save() -> None:
        if follower is not None:
            follower.end(saved)
        save_state(saved, state_path)

    try:
        for number, batch in enumerate(_chain_first(first, batches)):
            if number < skip:
                continue
            chunk = decode_batch(batch, number, saved.columns, options.missing)
            if write is not None:
                write(_score_chunk(chunk, saved, options))
            state = feed_rows(saved.state, chunk.rows, saved.rule)
            saved = replace(saved, state=state, batches=saved.batches + 1)
            rows, dropped, unsaved = rows + chunk.size, dropped + chunk.size - len(chunk.rows), unsaved + chunk.size
            if follower is not None:
                follower.observe(chunk)
            if unsaved >= options.save_rows:
                save()
                unsaved = 0
                if follower is not None:
                    follower.begin(saved)
    except InputDataError as error:
        if not saved.batches:
            raise
        remedy = "mend the input and start it again from its first batch with --replay, or go on behind the bad one"
        raise InputDataError(
            f"{error} The state {state_path} holds the {saved.batches} batches before: {remedy}."
        ) from error
    finally:
        if saved.batches:
            save()
    return StreamReport(saved, rows, dropped, skip)


def _chain_first(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    if first is not None:
        yield first
        yield from rest


def _open_state(path: str | os.PathLike[str], rule: OnlineRule, options: StreamOptions, first: Any) -> SavedStream:
    if Path(path).exists():
        saved = load_state(path)
        if rule.reservoir_rows is None:  # as the stream began; one of an earlier release goes on by its own rule
            kept = saved.rule.reservoir_rows
            rule = replace(rule, reservoir_rows=kept, power=saved.rule.power if kept == 0 else rule.power)
        if saved.rule != rule or options.columns not in (None, saved.columns):
            raise ConfigError(
                explain(
                    f"the state file {path} was made with other options",
                    why=f"it has {saved.rule} over {saved.columns}, and {rule} was asked for",
                    remedy="give the same options, or another --state",
                )
            )
        return saved
    if first is None:
        raise InputDataError("the stream has no record batch, and there is no state to resume from.")
    columns = options.columns or numeric_columns(first.schema)
    return SavedStream(OnlineState.start(len(columns)), rule, columns)


def _score_chunk(chunk: Chunk, saved: SavedStream, options: StreamOptions) -> Any:
    params = saved.state.params
    density = None if params is None else compile_density(params)
    return score_batch(
        chunk, density, saved.rule.n_components, saved.state.threshold, options.passthrough, options.proba
    )
