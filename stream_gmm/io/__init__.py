"""Bytes to core values and back: Parquet in, scored Parquet and model files out.

Three rooms: ``source`` reads rows, ``store`` keeps models, states and tables, ``sink`` writes and publishes scores
and builds on the other two. May import ``stream_gmm.core`` and ``stream_gmm.errors``; only here is pyarrow used.
Begin at :func:`~stream_gmm.io.source.dataset.open_dataset`.
"""
