"""Tables whose log says which files hold their rows: found, and read at a pinned version.

What lives here: Delta tables (:mod:`.delta`), read through the package ``deltalake`` (the extra ``delta``); Iceberg
tables (:mod:`.iceberg`), through ``pyiceberg`` (the extra ``iceberg``); data sets of Arrow and data frames of Dask
that stand for files (:mod:`.lazy`).

May import ``io.source.files``; begin with :func:`stream_gmm.io.source.tables.formats.open_table`.
"""
