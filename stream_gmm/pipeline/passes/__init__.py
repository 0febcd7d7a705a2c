"""Everything that reads the whole data set: the profile pass and the passes of EM. May import core, execute and io.

``tasks``: the leaves that a pass reads, and where their decoded rows are cached. ``profile``, ``profile_pass``: the
first pass (counts, moments, the uniform sample). ``full_pass``: the E-step over all rows, shared by all candidates.
``progress``: what a listener is told meanwhile. Begin with :class:`.full_pass.FullPass`.
"""
