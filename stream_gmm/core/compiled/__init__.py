"""How loops are compiled by numba: once for a machine, whatever the number of processes.

May import: nothing of the package. Begin with ``decorator.py``.

- ``decorator.py``: ``compiled``, which every compiled function has
- ``cache.py``: compiled code on disk; while one process compiles a function, the others wait for it
- ``calls.py``: calls of large functions by their address, so that they are compiled once and not in every caller
"""
