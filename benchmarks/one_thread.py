"""Imported before numpy and Dask: linear algebra on one thread, so that a process can be forked; Dask's usual log."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
