"""Which columns are used, and what footers and the first rows tell about them before anything is computed.

What lives here: the choice of columns (:mod:`.choice`); columns that are no measurements, such as identifiers
(:mod:`.identifiers`); nulls and ranges by the statistics of the row groups (:mod:`.statistics`); settings that name
columns there are not (:mod:`.names`).

May import ``io.source.files``, ``parts``, ``schema`` and ``filters``; begin with :mod:`.choice`.
"""
