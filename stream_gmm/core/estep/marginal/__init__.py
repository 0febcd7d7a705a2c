"""Rows with missing values: the densities, statistics and scores of the columns that they have.

May import: ``estep/kernels.py``, ``model``. Begin with ``density.py``.

- ``patterns.py``: rows sorted by the set of columns that they have
- ``density.py``: marginal densities, and what an E-step sums over rows
- ``kernels.py``: the compiled loops, one for covariance matrices and one for variances
- ``shared_kernel.py``: the loop for components that share one matrix
- ``scores.py``: the loops that score rows and fill in what is missing
"""
