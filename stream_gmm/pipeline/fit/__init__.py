"""Fit one mixture, and the parts of it that a sweep shares. May import :mod:`..passes`.

``settings``: the options, each with its explanation. ``algorithms``: auto, em, minibatch. ``grid``: the candidates.
``steps``: open, profile, run over the full data. ``sample``: fits on the sample, where full passes start.
``results``: from a candidate's last state to a ``FitResult``. ``fit``: all of it in order; begin there.
"""
