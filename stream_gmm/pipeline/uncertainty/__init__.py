"""How certain a fit and a choice are. May import :mod:`..passes` and :mod:`..fit`.

``bootstrap``: replicates of all rows in shared passes; begin there. ``ratio``: the likelihood-ratio test of K against
K + 1 components, by simulation. ``words``: both as sentences and as figures with standard errors.
"""
