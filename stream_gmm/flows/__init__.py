"""Prefect flows around the pipeline: names, retries, artifacts; no arithmetic.

What lives here: the jobs as flows (``sweep-and-score`` in :mod:`.run`, :mod:`.update`, :mod:`.score`,
:mod:`.monitor`), how the command line starts one (:mod:`.start`), their deployments (:mod:`.deploy`), what they show
in the Prefect UI (:mod:`.artifacts`, :mod:`.progress`), under which names (:mod:`.names`), and what they tell their
caller (:mod:`.context`).

May import: everything but the command line. Prefect is imported in this room only.

Where to begin: :func:`stream_gmm.flows.run.gmm_run`.
"""
