"""The search over starts and candidates: seeding, fits on the sample, and pruning.

May import: ``model``, ``stats``, ``rows``, ``criteria``, ``estep``, ``mstep``, ``fit``. Begin with
``sample_search.py``.

- ``sample_search.py``: restarts raced on the sample, fits to convergence there, improvement from neighbouring K
- ``sample_fit.py``: what the search returns
- ``judging.py``: how good fits on the sample are
- ``seeding.py``, ``seeding_loops.py``, ``pair_loops.py``: starting assignments (k-means++, ...), their loops
- ``evidence.py``: paired differences on validation rows, and pruning after the fits on the sample
- ``pruning.py``: pruning in the course of the full passes
- ``nested.py``: splits of components that all rows have determined, to start K + 1 from
"""
