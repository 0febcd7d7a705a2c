"""The M-step, and the penalties and priors of covariances: begin with mstep.py. Imports model and stats."""
