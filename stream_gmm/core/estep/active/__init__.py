"""The feature kernel for many components, of which few matter to a row.

May import: ``tiles``, ``kernels``, ``cost``, ``model``, ``rows``. Begin with ``screen.py``.

- ``screen.py``: bounds that tell which components are negligible, and whether skipping them pays
- ``loops.py``: the compiled loop over sorted rows
- ``vectors.py``: its loops over components, as instructions of LLVM
"""
