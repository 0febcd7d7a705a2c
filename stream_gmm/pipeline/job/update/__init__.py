"""How a run folder follows new data: files, or the batches of a stream.

``stage``: the update from files, in the order of events; begin there. ``publisher``: its version, scores, record and
statistics. ``stream_versions``: versions of a stream, and how its periods compare with them.
May import the other modules of :mod:`..job`; the decisions are made in :mod:`stream_gmm.pipeline.update`.
"""
