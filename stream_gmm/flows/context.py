"""What a caller in this process and a flow tell each other: the plan and the progress, and what became of the job.

Not in the modules of the flows: a served run pickles those by value, and a context variable cannot be pickled.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from stream_gmm.pipeline.job.plan import Plan
from stream_gmm.pipeline.passes.progress import Listener, ignore_progress

OnPlan = Callable[[Plan], None]


@dataclass
class Outcome:
    """What became of the job itself, whatever became of the reports to Prefect."""

    result: dict[str, Any] | None = None
    error: BaseException | None = None
    on_sigterm: Any = None

    def keep_signals(self) -> None:
        """Let SIGTERM do what it did before Prefect began the flow, whose own way of ending has no deadline.

        A served run, which nobody watches, is stopped by Prefect, and keeps Prefect's.
        """
        if self.on_sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.on_sigterm)


_OUTCOME: ContextVar[Outcome | None] = ContextVar("outcome", default=None)
_LISTENER: ContextVar[Listener] = ContextVar("listener", default=ignore_progress)
_ON_PLAN: ContextVar[OnPlan] = ContextVar("on_plan", default=lambda _: None)


@contextmanager
def forward_progress(listener: Listener, on_plan: OnPlan = lambda _: None) -> Iterator[None]:
    """Also report the plan and the progress of flows inside the block to functions of this process."""
    tokens = _LISTENER.set(listener), _ON_PLAN.set(on_plan)
    try:
        yield
    finally:
        _LISTENER.reset(tokens[0])
        _ON_PLAN.reset(tokens[1])


@contextmanager
def watch_outcome() -> Iterator[Outcome]:
    """Yield what becomes of the flow that runs inside the block."""
    outcome = Outcome(on_sigterm=signal.getsignal(signal.SIGTERM))
    token = _OUTCOME.set(outcome)
    try:
        yield outcome
    finally:
        _OUTCOME.reset(token)


def current_listener() -> Listener:
    """Return the function of this process that progress is reported to."""
    return _LISTENER.get()


def current_outcome() -> Outcome:
    """Return what :func:`watch_outcome` has yielded; a new one if nobody watches."""
    return _OUTCOME.get() or Outcome()


def show_plan(plan: Plan) -> None:
    """Report the plan to the function of this process that asked for it."""
    _ON_PLAN.get()(plan)
