"""Models and scores for other programs: scikit-learn, JSON, ONNX, record batches, Dask data frames.

May import core, io and errors; scikit-learn, onnx and pandas are imported by the functions that need them.
Begin with :func:`.sklearn_mixtures.to_sklearn` for models and :func:`.batches.score_batches` for scores.
"""
