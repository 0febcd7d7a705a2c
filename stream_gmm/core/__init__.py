"""The mathematics, pure: numpy, scipy and numba; no files, threads, clocks or global random state.

Rooms, in the order of their imports (each may import those before it; import-linter checks this):

0. ``compiled``: how loops are compiled and kept
1. ``model``: parameters, covariance structures, densities, features, matching, splits and merges
2. ``stats.py``: sufficient statistics, a value with a merge
3. ``rows`` and ``criteria.py``: what is computed from rows without a model (moments, scaling, sampling, oddities);
   BIC, AIC, ICL and held-out likelihood
4. ``estep`` and ``mstep``: from parameters and rows to statistics; from statistics to parameters
5. ``fit``: the EM driver and its acceleration
6. ``search``, ``result.py`` and ``drift.py``: seeding, fits on the sample and pruning; the result of a fit; how far
   new rows are from it
7. ``online.py``: online EM for streams

Begin with ``model/params.py``, ``stats.py`` and ``fit/em.py``: a fit is ``MixtureParams`` -> E-step -> ``SuffStats``
-> M-step -> ``MixtureParams``, repeated by ``fit.em.run_to_end``.

Notation, used in all of this package:

- N rows, K components, D features (columns); n for the rows of a sample or a part, p for the number of free
  parameters. Axis order is rows, component, feature, feature: ``X (N, D)``, means ``(K, D)``, matrices ``(K, D, D)``.
  Only the compiled loops work on ``rows_t (D, N)``.
- Within a batch of candidates: C candidates with M components together, F features for the matrix product of a
  kernel, b rows in a block.
- *responsibility* ``r (N, K)``: the probability that a row comes from a component, given the row.
- ``weight`` of a component: in statistics the sum of its responsibilities (``n_k``), in parameters the mixing weight.
  ``weights (N,)`` of rows: how often each row counts; an empty array means once each.
- *scatter*: the sum over rows of ``r (x - mean) (x - mean)'``; divided by ``n_k`` it is the covariance.
- *nats*: units of natural logarithms. Log-likelihoods that are averaged are in nats per row.
- *structure*, or *family*: the restriction on the covariances, such as ``full`` or ``VEV``; *shared* if all
  components have the same covariance.
- *expanded* covariances: one for every component, as matrices ``(K, D, D)`` or variances ``(K, D)``.
- *whitened*: a row x as ``y = U' (x - mean)`` with the precision (inverse covariance) ``U U'``, so that the squared
  length of y is the squared Mahalanobis distance. *sphered*: in coordinates in which all rows together are
  uncorrelated with variance 1.
- *kernel*: one of the ways to compute log-densities and statistics (quadratic, sphered, whitened).
- *noise*, *background*: a component that is uniform in a box, and its weighted log-density.
- *candidate*: one number of components with one structure. *pass*: one read of all rows, which serves all candidates.
  *leaf*: the consecutive rows that one task of a pass reads; *chunk*: the rows handed to a kernel at once.
- *plain EM step*, *proposal*: the next point to be evaluated, by EM itself or by an acceleration; a proposal is
  *accepted* if the objective has not fallen there.
- *chart*: coordinates about a reference mixture in which extrapolation takes place.
- *gain*: an increase of the mean log-likelihood, nats per row.
- *validation rows*: rows of the sample that no candidate was fitted to. *held-out rows*: rows of the full data that
  no fit uses. *pruned*: a candidate without a chance, which takes part in no more passes.
- ``digest``: a SHA-256 that identifies a model.
"""
