"""Models and scores for other programs: scikit-learn, JSON, ONNX, MLflow, record batches, Dask data frames.

May import core, io and errors; scikit-learn, onnx, mlflow and pandas are imported by the functions that need them.
Begin with :func:`.sklearn_mixtures.to_sklearn` for models and :func:`.batches.score_batches` for scores.
"""
