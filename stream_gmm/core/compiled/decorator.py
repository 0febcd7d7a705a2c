"""The decorator of every compiled function."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit
from numba.core.caching import NullCache
from numba.core.registry import CPUDispatcher

from stream_gmm.core.compiled.cache import SharedCache


class _Function(CPUDispatcher):  # type: ignore[misc]
    """A compiled function; the lock of its cache is held no longer than it is compiled, also if that fails."""

    def compile(self, sig: Any) -> Any:
        try:
            return super().compile(sig)
        finally:
            if not isinstance(self._cache, NullCache):
                self._cache.release()


class _InternalFunction(_Function):
    """One without the wrapper that a call by Python jumps to, which numba does not look for."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"{self.py_func.__name__} is compiled for calls by compiled functions only.")


def compiled(internal: bool = False, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return the decorator that compiles a function with these options of numba when it is first called.

    It runs without the GIL, and its code is kept on disk. An ``internal`` function can be called by compiled code
    only, which saves a sixth of the time to compile it. To compile fast: write loops over numbers, not expressions of
    arrays and no ``a[:] = b``, whose check of the shapes alone takes a second; and call functions with variables or
    ``np.int64(0)``, not with ``0``: for each number they would be compiled anew.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = njit(nogil=True, no_cfunc_wrapper=True, no_cpython_wrapper=internal, **options)(function)
        if not isinstance(dispatcher, CPUDispatcher):  # with NUMBA_DISABLE_JIT it is the function
            return dispatcher
        dispatcher.__class__ = _InternalFunction if internal else _Function
        try:
            dispatcher._cache = SharedCache(function)
        except RuntimeError:  # neither the folder of the package nor that of the user's caches can be written
            _warn_of_no_cache()
        return dispatcher

    return decorate


@cache
def _warn_of_no_cache() -> None:
    warnings.warn(
        "compiled code cannot be kept on disk, so every process compiles its loops anew, which takes up to a minute:"
        " neither the folder of the package nor the user's cache folder can be written."
        " Set NUMBA_CACHE_DIR to a folder that can be.",
        stacklevel=4,
    )
