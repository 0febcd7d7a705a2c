"""Results in object stores, which have no folders and no renames.

What lives here: the log of commits that makes a version current (:mod:`.commits`), the lease (:mod:`.lease`), and the
folders of runs (:mod:`.run_folders`).

May import: :mod:`stream_gmm.io.sink.places`, :mod:`stream_gmm.io.source`, :mod:`stream_gmm.io.store`.

Where to begin: :func:`stream_gmm.io.sink.objects.commits.commit_version`.
"""
