"""Map-reduce over items: serial, on threads, on a Dask cluster. Has never heard of mixtures."""
