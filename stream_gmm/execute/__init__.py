"""Executors: map and map-reduce over items, in this process or on a Dask cluster.

What lives here: the contract of an executor (:mod:`.protocol`), the fixed reduction tree (:mod:`.tree`), the
executors of this process (:mod:`.local`, with :mod:`.serial` and :mod:`.threads`) and of Dask (:mod:`.dask`; only
files whose names begin with dask import it), and which addresses of a scheduler are exposed (:mod:`.addresses`).

May import: :mod:`stream_gmm.errors`, and nothing else of the package. Executors know nothing about mixtures.

Where to begin: :class:`stream_gmm.execute.protocol.Executor`.
"""
