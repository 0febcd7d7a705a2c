"""Scored tables as Delta tables: the files of a job become rows of the table in one transaction.

What lives here: the target (:mod:`.target`), transactions and manifests (:mod:`.log`), types that a Delta table has
(:mod:`.types`).

May import: :mod:`stream_gmm.io.sink.places`, :mod:`stream_gmm.io.source`, :mod:`stream_gmm.io.store`.

Where to begin: :class:`stream_gmm.io.sink.delta.target.DeltaTarget`.
"""
