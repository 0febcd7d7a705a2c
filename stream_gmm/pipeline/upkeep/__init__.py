"""What keeps published results in order: whether they are as they were written (verify), what can be removed (clean).

May import: :mod:`stream_gmm.pipeline.job`, :mod:`stream_gmm.io`, :mod:`stream_gmm.core`.

Where to begin: :func:`stream_gmm.pipeline.upkeep.verify.verify`.
"""
