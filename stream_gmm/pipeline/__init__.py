"""The use-cases: plain functions that compose core, execute and io. Nothing here imports Prefect, Dask or pyarrow.

Rooms, each of which may import those before it: :mod:`.passes` (what reads the data), :mod:`.fit` (one mixture),
:mod:`.sweep` (many candidates and the choice among them) beside :mod:`.uncertainty`, :mod:`.score`, :mod:`.stream`
and :mod:`.monitor` (drift), then :mod:`.update` (a model follows its files), and on top :mod:`.job` (configuration,
cluster, plan, and the stages of a run). Begin with :func:`.fit.fit.fit`, which is one fit from top to bottom, then
:class:`.sweep.sweep.SweepJob`.
"""
