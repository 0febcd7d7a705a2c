"""Rows in: files, objects and arrays as chunks of float64.

Begin at :func:`~stream_gmm.io.source.dataset.open_dataset`. It lists the files (``listing``), pins the identity of
each (``files``), chooses the columns (``columns``, ``schema``), and cuts the files into ``parts``. A ``leaf`` of the
data set reads its parts as ``chunks``, without the rows that ``filters`` leaves out, and ``decode`` turns them into
numbers; ``cache`` keeps decoded leaves. ``memory`` makes a data set of rows in memory, and ``protocols`` says what
every source offers.

May import ``stream_gmm.core`` and ``stream_gmm.errors``; never ``io.sink`` or ``io.store``.
"""
