"""What is computed from rows before there is a model.

May import: ``model``, ``stats``. Begin with ``moments.py``.

- ``moments.py``: weight, mean and scatter of rows, and row weights
- ``scaling.py``: the coordinates of the kernels
- ``sampling.py``: uniform samples, held-out rows and bootstrap weights by hashes of the rows
- ``constants.py``: columns with a single value
- ``resolution.py``: the step in which the values of a column were recorded
- ``oddities.py``: repeated values, collinear columns, rows ordered by their values
"""
