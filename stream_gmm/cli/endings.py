"""How a command ends: one message without credentials, the documented exit code, and the command that goes on.

Signals end it in time and in one line, whatever it is doing when they come, its first imports included: what this
module imports is light.
"""

from __future__ import annotations

import errno
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from stream_gmm.errors import ClusterError, StorageError, StreamGMMError, redact_error, redact_text

RESUMED = {"resume", "run", "sweep", "fit", "score", "bootstrap", "monitor", "update", "stream"}
"""Commands that, started again, go on where they were."""
PATIENCE_SECONDS = 15.0
"""After a signal a command has so long to close its cluster."""
_NO_PLACE = (
    ". Make space where the results, the scored table and temporary files lie; those of Dask's workers are where "
    "DASK_TEMPORARY_DIRECTORY says, else in the folder for temporary files of their machines."
)
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def end_on_errors(arguments: Sequence[str]) -> Iterator[None]:
    """Turn whatever ends a command inside the block into one message and the documented exit code."""
    interruption = Interruption(arguments)
    interruption.install()
    if jobs := sys.modules.get("stream_gmm.io.store.jobs"):
        jobs.forget_open_jobs()
    code = 0
    try:
        yield
    except GeneratorExit:
        raise
    except BaseException as error:
        code = _end(error, interruption, arguments)
        sys.exit(code)
    finally:
        interruption.finish(code)


def _end(error: BaseException, interruption: Interruption, arguments: Sequence[str]) -> int:
    """Return the exit code of what ended a command, whose message is printed, or will be."""
    import click

    if interruption.number:  # whatever it has become on its way, this is the end that the signal asked for
        return 128 + interruption.number
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, click.Abort) or not isinstance(error, Exception):  # of a signal to another handler
        interruption.stop(int(getattr(error, "signal", signal.SIGINT)))
        return 128 + interruption.number
    if isinstance(error, click.ClickException):
        import io

        shown = io.StringIO()
        error.show(file=shown)
        click.echo(redact_text(shown.getvalue()), err=True, nl=False)
        return error.exit_code
    if isinstance(error, StreamGMMError):
        hint = describe_resumption(arguments) if isinstance(error, ClusterError | StorageError) else ""
        click.echo(f"error: {error}{hint}", err=True)
        return error.exit_code
    if isinstance(error, OSError):
        place = _NO_PLACE if error.errno == errno.ENOSPC and not error.filename else ""
        click.echo(f"error: {redact_text(str(error))}{place}{describe_resumption(arguments)}", err=True)
        return StorageError.exit_code
    import traceback

    redact_error(error)
    click.echo(redact_text("".join(traceback.format_exception(error))), err=True)
    return 1


def describe_resumption(arguments: Sequence[str]) -> str:
    """Return how to go on after a command was cut off, as the end of a message; empty if it only starts anew."""
    if not arguments or arguments[0] not in RESUMED:
        return ""
    jobs = sys.modules.get("stream_gmm.io.store.jobs")  # imported by whatever begins a job, and by nothing earlier
    find = getattr(jobs, "open_job", None)  # None while it is being imported
    if arguments[0] != "resume" and find and (unfinished := find()):
        folder, job = unfinished
        if job.is_complete:
            shown = os.path.relpath(folder) if folder.is_relative_to(os.getcwd()) else str(folder)
            named = str(job.config.get("output", {}).get("folder", ""))
            shown = named if "://" in named else shown
            return (
                f" What was finished is kept; to go on: {shlex.join(['stream-gmm', 'resume', shown])} (run {job.id})"
            )
    given = [a for a in arguments if a != "--fresh"]
    if given[0] == "stream" and "--replay" not in given:
        given.append("--replay")
    return f" What was finished is kept; to go on: {redact_text(shlex.join(['stream-gmm', *given]))}"


class Stopped(KeyboardInterrupt):
    """A signal came. One that is no plain KeyboardInterrupt: after that Python may end by SIGINT, whatever came."""


class Interruption:
    """What signals do to a command: the first raises KeyboardInterrupt, and nothing but one line is printed.

    A second one, or a shutdown that takes too long, ends the process at once; Dask's workers notice. When the command
    is over, and only the interpreter has to end, the first one no longer raises.

    Parameters
    ----------
    arguments
        The command line.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments
        self._told = False
        self._code: int | None = None
        self.number = 0
        """Of the first signal; 0: there was none."""

    def install(self) -> None:
        """Receive the signals from now on; those that are ignored, as by nohup, stay so."""
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    signal.signal(number, self._receive)

    def stop(self, number: int) -> None:
        """Make the process end in time, and be silent."""
        self.number = number
        timer = threading.Timer(PATIENCE_SECONDS, self._end_now, [number])
        timer.daemon = True
        timer.start()
        silence()

    def finish(self, code: int) -> None:
        """Take down that the command is over, and its exit code; one that a signal has stopped says so."""
        self._code = code
        if self.number and code:
            self._tell(direct=False)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.number:
            self._end_now(number)
        is_over = self._code is not None
        if is_over:
            self._told = True
        self.stop(number)
        if not is_over:
            raise Stopped

    def _end_now(self, number: int) -> None:
        self._tell(direct=True)
        os._exit(128 + number if self._code is None else self._code)

    def _tell(self, direct: bool) -> None:
        """Print the line, once; directly where another line may be half printed."""
        if self._told:
            return
        self._told = True
        line = f"stopped by {signal.Signals(self.number).name}.{describe_resumption(self._arguments)}\n"
        try:
            if direct:
                os.write(2, line.encode())
            else:
                sys.stderr.write(line)
                sys.stderr.flush()
        except OSError:  # after SIGHUP the terminal is gone, and what is left to print would be an error
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)


@contextmanager
def limit_shutdown() -> Iterator[None]:
    """After the block, the command, let its process end in time: Prefect would wait for minutes for a lost server."""
    code = 0
    try:
        yield
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        timer = threading.Timer(PATIENCE_SECONDS, _end_at_once, [code])
        timer.daemon = True
        timer.start()


def _end_at_once(code: int) -> None:
    with suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def ignore_signals() -> None:
    """Receive no signal any more."""
    for number in NUMBERS:
        signal.signal(number, signal.SIG_IGN)


def silence() -> None:
    """Let no library describe what it makes of an interruption: in logs, and in errors that nothing catches."""
    import warnings

    def ignore(*_: Any) -> None:
        return None

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    threading.excepthook = ignore
    sys.unraisablehook = ignore


class RedactingFormatter(logging.Formatter):
    """Lines of the log without credentials."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a line of the log, or several with a traceback, without credentials."""
        return redact_text(super().format(record))
