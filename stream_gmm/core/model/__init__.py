"""Mixtures as values: parameters, covariance structures, and what follows from them without data.

May import: nothing else of the core. Begin with ``params.py``; for a new structure, with ``families.py``.

- ``moments.py``: the kinds of second moment (matrix, diagonal, trace) and the arithmetic on scatter
- ``features.py``: features of a row in which log-densities are linear
- ``families.py``: the protocol of a covariance structure, and shared arithmetic
- ``covariance.py``: scikit-learn's four structures and two shared ones; ``FAMILIES`` and ``family_named``
- ``structures.py``: the other eight structures of mclust
- ``params.py``: ``MixtureParams``, the parameters of a mixture
- ``density.py``: ``Density``, parameters compiled for evaluation
- ``draw.py``: random rows from a mixture
- ``split_merge.py``: splits, merges and removal of components
- ``matching.py``: which component of one mixture is which of another
"""
