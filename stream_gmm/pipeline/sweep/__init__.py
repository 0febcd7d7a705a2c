"""Many candidates in shared passes, and the choice among them. May import :mod:`..passes` and :mod:`..fit`.

``sweep``: the order of events; begin there. ``sample_pruning``: which candidates take part in no pass.
``nested``: which start again in the full passes, from splits of one with fewer components. ``ledger``: what is
finished, on disk, so that a sweep resumes. ``choice``: the selection rules and the sentences that explain them.
``result``: the sweep table.
"""
