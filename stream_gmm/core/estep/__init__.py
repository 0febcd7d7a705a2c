"""The E-step: from parameters and rows to statistics and scores.

May import: ``model``, ``stats``, ``rows``, ``criteria``. Begin with ``in_memory.py``, which shows a whole E-step in a
few lines, then ``accumulate.py``.

- ``in_memory.py``: the E-step over rows in memory
- ``accumulate.py``: statistics of chunks, their merge, and what completes them
- ``batch.py``: candidates stacked in groups that share a kernel
- ``kernel_choice.py``: which kernel a candidate takes, by its rounding error and cost
- ``active``: components that are negligible for a row, skipped
- ``cost.py``: predicted cost of a kernel
- ``kernels.py``: the compiled loops of the feature kernels (quadratic, sphered)
- ``tiles``: matrix products in tiles, of which the feature kernels are made
- ``whitening.py``: the compiled loops of the whitened kernel
- ``scores.py``: scores of rows by one mixture
- ``score_kernels.py``: their compiled loops
- ``marginal``: all of this for rows with missing values
"""
