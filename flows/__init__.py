"""Entry points of Prefect deployments that run from a checkout, named in ``prefect.yaml``.

What lives here: one short file for each flow of the package; the flows themselves are in :mod:`stream_gmm.flows`, so
that what is installed has no top-level name but ``stream_gmm``.

May import: :mod:`stream_gmm.flows`. Nothing imports this folder.
"""
