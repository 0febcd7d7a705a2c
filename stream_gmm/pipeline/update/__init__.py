"""Keep a model up to date as files come and go. May import :mod:`..fit`, :mod:`..sweep` and what those may.

``rule``: the options, each explained once. ``files``: which files are new, changed or gone, windows and half-lives.
``statistics``: the statistics of every file, read or reused. ``move``: whether the parameters move, and where to.
``evidence``: champion and challenger, and another K or structure. ``update``: the order of events; begin there.
"""
