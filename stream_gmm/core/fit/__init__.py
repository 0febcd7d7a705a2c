"""The iteration of E-step and M-step, and its acceleration.

May import: ``model``, ``stats``, ``rows``, ``criteria``, ``estep``, ``mstep``. Begin with ``em.py``.

- ``em.py``: EM as a state machine: ``EMState``, ``advance``, ``run_to_end``, stopping, outcomes
- ``few_rows.py``, ``few_rows_loops.py``, ``few_rows_steps.py``: EM and quasi-Newton steps on rows in memory, compiled
- ``accelerate.py``: Anderson acceleration, SQUAREM, and the combination with steps on the sample
- ``coordinates.py``: charts, the coordinates of extrapolation
- ``surrogate.py``: steps on the sample that aim at the optimum of the full data
- ``stepwise.py``: stepwise (mini-batch) EM and step-size schedules
"""
