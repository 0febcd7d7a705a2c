"""Scores as Parquet folders and Arrow streams.

What lives here: the scored table, one file per part (:mod:`.scores`), how a folder of them is published atomically
(:mod:`.publish`), and scored record batches (:mod:`.stream`).

May import: :mod:`stream_gmm.io.source`, :mod:`stream_gmm.io.store`, :mod:`stream_gmm.core`.

Where to begin: :func:`stream_gmm.io.sink.scores.score_part`.
"""
