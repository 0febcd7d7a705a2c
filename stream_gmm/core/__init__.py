"""The mathematics, pure: numpy, scipy and numba; no files, threads, clocks or global random state.

Notation, used everywhere in this package: N rows, K components, D features; ``X (N, D)``,
responsibilities ``r (N, K)``. Axis order is rows, component, feature, feature. Logarithms are
natural; a likelihood that is averaged is in nats per row.
"""
