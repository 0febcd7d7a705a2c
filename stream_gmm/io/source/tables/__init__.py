"""Tables whose log says which files hold their rows: found, and read at a pinned version.

What lives here: Delta tables (:mod:`.delta`), read through the package ``deltalake`` (the extra ``delta``); data sets
of Arrow and data frames of Dask that stand for files (:mod:`.lazy`).

May import ``io.source.files``; begin with :func:`stream_gmm.io.source.tables.delta.open_table`.
"""
