"""The update of a run folder, from its configuration to what is published.

``stage``: the order of events; begin there. ``publisher``: the version, the scores, the record and the statistics.
May import the other modules of :mod:`..job`; the decisions are made in :mod:`stream_gmm.pipeline.update`.
"""
