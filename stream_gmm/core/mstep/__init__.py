"""The M-step: from statistics to parameters.

May import: ``model``, ``stats``, ``rows``, ``criteria``. Begin with ``mstep.py``.

- ``mstep.py``: the M-step, and its report of components that are starving or on the variance floor
- ``penalty.py``: what keeps covariances from becoming singular (a ridge, or pseudo-rows)
- ``resolution.py``: no component is narrower than the step in which the values were recorded
- ``prior.py``: the conjugate prior of mclust
"""
