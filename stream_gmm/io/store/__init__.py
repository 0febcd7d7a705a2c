"""Values of the library as files: models, states of streams, small tables; and files that are replaced together.

What lives here: the checksummed container (:mod:`.container`) with the model file (:mod:`.models`) and the state of a
stream (:mod:`.states`), any frozen value as JSON and arrays (:mod:`.codec`), small Parquet tables (:mod:`.tables`),
atomic steps with folders (:mod:`.folders`, :mod:`.generations`), and the catalog of versions (:mod:`.versions`).

May import: :mod:`stream_gmm.core` and :mod:`stream_gmm.errors`; no other room of :mod:`stream_gmm.io`.

Where to begin: :func:`stream_gmm.io.store.models.save_model`.
"""
