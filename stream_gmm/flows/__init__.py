"""Prefect flows around the pipeline: names, retries, artifacts; no arithmetic.

What lives here: the main job as a flow (:mod:`.run`), its deployment (:mod:`.deploy`), what it shows in the Prefect
UI (:mod:`.artifacts`, :mod:`.progress`), under which names (:mod:`.names`), and what it tells its caller
(:mod:`.context`).

May import: everything but the command line. Prefect is imported in this room only.

Where to begin: :func:`stream_gmm.flows.run.gmm_run`.
"""
