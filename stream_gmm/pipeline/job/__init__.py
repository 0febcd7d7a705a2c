"""Jobs: a configuration, the stages of a run, and the folder that they leave behind.

What lives here: the configuration (:mod:`.sections`, :mod:`.config`), what is checked before a row is read
(:mod:`.checks`), what a run will need (:mod:`.plan`), who computes (:mod:`.cluster`), the files of a run
(:mod:`.run_folder`) and its versions (:mod:`.registry`), and the stages themselves (:mod:`.stages`,
:mod:`.bootstrap_stage`, :mod:`.monitor_stage`).

May import: everything of :mod:`stream_gmm.pipeline`, :mod:`stream_gmm.io`, :mod:`stream_gmm.execute` and
:mod:`stream_gmm.core`; not the command line, the report or Prefect.

Where to begin: :func:`stream_gmm.pipeline.job.stages.sweep_stage`.
"""
