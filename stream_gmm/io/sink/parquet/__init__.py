"""How scored files are written as Parquet.

What lives here: the choice of encoding and compression for each column (:mod:`.encodings`).

May import: nothing of the sink. Where to begin: :func:`stream_gmm.io.sink.parquet.encodings.choose_encoding`.
"""
