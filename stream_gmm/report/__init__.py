"""Figures and the self-contained HTML report of a run; matplotlib stays in here."""
