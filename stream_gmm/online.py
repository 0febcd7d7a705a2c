"""OnlineGaussianMixture: a mixture that learns from batches as they come, and never sees a row twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.online import OnlineState, feed_rows, make_online_result
from stream_gmm.core.online_rule import OnlineRule
from stream_gmm.core.result import FitResult
from stream_gmm.core.rows.frames import as_rows, column_names
from stream_gmm.errors import NotFittedError, check_number, check_whole_number, one_of
from stream_gmm.estimator_base import (
    CriteriaMixin,
    EstimatorNotFittedError,
    MixtureEstimator,
    check_two_rows,
    draw_seed,
)
from stream_gmm.estimator_start import check_enough_rows
from stream_gmm.execute.protocol import one_blas_thread
from stream_gmm.io.sink.stream import arrow_batches, decode_batch
from stream_gmm.io.source.schema import numeric_columns
from stream_gmm.io.store.states import SavedStream, load_state, save_state


class OnlineGaussianMixture(CriteriaMixin, MixtureEstimator):
    """Gaussian mixture fitted to a stream by stepwise EM (Cappe & Moulines 2009), in bounded memory.

    The first rows are fitted to convergence; then every step blends the statistics of new rows with the running
    statistics of the model. The result does not depend on how the stream is cut into batches. Without a half-life
    every row counts once, in whatever order rows come: the model is reviewed on a uniform sample of all rows so far
    when their number has grown by half, when it fits new ones badly, and when it is asked for. Columns of frames and
    Arrow tables go by name.

    Parameters
    ----------
    n_components, covariance_type, reg_covar, n_init, random_state
        As in :class:`stream_gmm.GaussianMixture`. Parameters are read when the first row comes; later changes have
        no effect on a stream that has begun.
    half_life
        Rows after which a row counts half, for streams that drift; None: every row counts once.
    power
        Below 1, without a half-life: step sizes are ``(t + 2)^-power``, with which old statistics fade.
    step_rows, warmup_rows
        Rows of a step, and before the first fit; None: by K and the columns.
    prior_rows
        Pseudo-rows in every component that keep it from collapsing; they fade as rows arrive.
    outlier_quantile
        The outlier threshold follows this quantile of the log-density.
    missing
        ``"error"`` or ``"drop"``: what to do with rows that hold a null, NaN, infinity or a value beyond 1e150.
    reservoir_rows
        Rows kept to review the model on, where every row counts once; None: 50,000, fewer beyond 80 columns; 0: no
        reviews.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_cholesky_, n_features_in_, feature_names_in_
        As in scikit-learn, once the first fit is made.
    rows_seen_, effective_rows_, n_steps_
        Rows seen; effective number of rows in the statistics of the model (Kish 1965); steps made.
    result_ : FitResult

    Examples
    --------
    >>> import numpy as np, stream_gmm as sg
    >>> rng = np.random.default_rng(0)
    >>> gm = sg.OnlineGaussianMixture(2, covariance_type="tied_spherical", random_state=0)
    >>> for _ in range(20):
    ...     gm = gm.partial_fit(rng.normal(size=(500, 1)) + 10.0 * rng.integers(0, 2, size=(500, 1)))
    >>> sorted(gm.means_.round().astype(int).ravel().tolist())
    [0, 10]
    """

    rows_dropped_ = 0
    _rule: OnlineRule | None = None
    _state: OnlineState | None = None
    _columns: tuple[str, ...] = ()
    _concluded: dict[str, FitResult] | None = None
    """Holds the model of this state once it was asked for."""

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        half_life: float | None = None,
        power: float = 1.0,
        step_rows: int | None = None,
        warmup_rows: int | None = None,
        n_init: int = 3,
        prior_rows: float = 1.0,
        reg_covar: float | None = None,
        outlier_quantile: float = 0.01,
        random_state: Any = 0,
        missing: str = "error",
        reservoir_rows: int | None = None,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.half_life = half_life
        self.power = power
        self.step_rows = step_rows
        self.warmup_rows = warmup_rows
        self.n_init = n_init
        self.prior_rows = prior_rows
        self.reg_covar = reg_covar
        self.outlier_quantile = outlier_quantile
        self.random_state = random_state
        self.missing = missing
        self.reservoir_rows = reservoir_rows

    def fit(self, X: Any, y: Any = None) -> Self:
        """Forget what was learnt, and learn from rows in memory; if they are few, the first fit is of all of them.

        Parameters
        ----------
        X
            As for :meth:`partial_fit`.
        y
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ConfigError, InputDataError
            As :meth:`partial_fit`.
        """
        self._state, self._rule, self._columns, self.rows_dropped_ = None, None, (), 0
        self.partial_fit(X, y)
        state, rule = self._seen, self._rule
        check_two_rows(state.rows_seen)
        if state.params is None and rule is not None:
            check_enough_rows(state.rows_seen, rule.n_components)
            first = replace(rule, warmup_rows=state.rows_seen)
            with one_blas_thread:
                self._state = feed_rows(OnlineState.start(state.n_features), state.pending_rows, first)
            self._concluded = {}
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Learn from rows: an array ``(n, D)``, a data frame, an Arrow table or record batch.

        All of them are learnt, or with an error none.

        Parameters
        ----------
        X
            The rows; columns with names are found by them.
        y
            Ignored.

        Returns
        -------
        self

        Raises
        ------
        ConfigError
            If a parameter is out of range.
        InputDataError
            If the rows have other columns than those before, or a value that is missing.
        """
        del y
        before = self._state, self._rule, self._columns, self.rows_dropped_
        try:
            self._rule = self._rule or self._make_rule()
            for rows in self._rows(X):
                if self._state is None:
                    self._state = OnlineState.start(rows.shape[1])
                    self._remember_columns(X, self._columns, rows.shape[1])
                self._check_n_features(rows.shape[1])
                with one_blas_thread:
                    self._state = feed_rows(self._state, rows, self._rule)
        except BaseException:
            self._state, self._rule, self._columns, self.rows_dropped_ = before
            raise
        self._concluded = {}
        return self

    def _make_rule(self) -> OnlineRule:
        for name, least in (("n_components", 1), ("n_init", 1)):
            check_whole_number(name, getattr(self, name), least)
        for name in ("step_rows", "warmup_rows"):
            if getattr(self, name) is not None:
                check_whole_number(name, getattr(self, name), 1)
        if self.reservoir_rows is not None:
            check_whole_number("reservoir_rows", self.reservoir_rows, 0)
        for name in ("half_life", "power", "prior_rows", "reg_covar", "outlier_quantile"):
            check_number(name, getattr(self, name), -np.inf)
        one_of(self.missing, ("error", "drop"), "missing")
        return OnlineRule(
            int(self.n_components), family_named(self.covariance_type), self.half_life, self.power, self.step_rows,
            self.warmup_rows, int(self.n_init), self.prior_rows, self.reg_covar, self.outlier_quantile,
            draw_seed(self.random_state), self.reservoir_rows,
        )  # fmt: skip

    def fit_stream(self, batches: Iterable[Any]) -> Self:
        """Learn from every batch of an iterator; with an error in one, those before it are learnt.

        ``rows_seen_`` tells where an interrupted stream has to go on.

        Parameters
        ----------
        batches
            Whatever :meth:`partial_fit` takes, one after the other.

        Returns
        -------
        self
        """
        for batch in batches:
            self.partial_fit(batch)
        return self

    def _rows(self, X: Any) -> Iterator[Array]:
        batches = arrow_batches(X)
        if batches is None:
            yield self._plain_rows(X)
            return
        for number, batch in enumerate(batches):
            columns = self._columns or numeric_columns(batch.schema)
            if self._state is None:
                self._columns = columns
            chunk = decode_batch(batch, number, columns, self.missing)
            self.rows_dropped_ += chunk.size - len(chunk.rows)
            yield chunk.rows

    def _plain_rows(self, X: Any) -> Array:
        if self._state is None:
            self._columns = column_names(X)
        rows = as_rows(X, self._columns, missing=self.missing)
        self.rows_dropped_ += len(X) - len(rows)
        return rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state; :meth:`load` goes on from it to the same bits.

        Raises
        ------
        StorageError
            If it cannot be written.
        NotFittedError
            Before the first row.
        """
        if self._state is None or self._rule is None:
            raise EstimatorNotFittedError("there is nothing to save before the first row.")
        save_state(SavedStream(self._state, self._rule, self._columns), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], missing: str = "error") -> OnlineGaussianMixture:
        """Return the mixture of a state file, which goes on where it was saved.

        Parameters
        ----------
        path
            What :meth:`save` or ``stream-gmm stream`` has written.
        missing
            As in the constructor.

        Returns
        -------
        OnlineGaussianMixture
            To the same bits as if it had never been saved.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, or no state file.
        """
        saved = load_state(path)
        rule = {f.name: getattr(saved.rule, f.name) for f in fields(saved.rule) if f.name != "family"}
        out = cls(covariance_type=saved.rule.family.name, missing=missing, **rule)
        out._rule, out._state, out._columns, out._concluded = saved.rule, saved.state, saved.columns, {}
        out.n_features_in_, out._by_name = saved.state.n_features, bool(saved.columns)
        if saved.columns:
            out.feature_names_in_ = np.array(saved.columns, dtype=object)
        return out

    @property
    def _seen(self) -> OnlineState:
        return self._state if self._state is not None else OnlineState.start(1)

    @property
    def result_(self) -> FitResult:  # type: ignore[override]
        """The model as it is now; see :func:`~stream_gmm.core.online.conclude_state`."""
        if self._rule is None:
            raise AttributeError("no row was seen")
        models = {} if self._concluded is None else self._concluded
        if not models:
            try:
                with one_blas_thread:
                    models["model"] = make_online_result(self._seen, self._rule, self._columns)
            except NotFittedError as error:
                raise EstimatorNotFittedError(*error.args) from None
        return models["model"]

    @property
    def weights_(self) -> Array:
        """Mixing weights ``(K,)``."""
        return self.result_.weights_

    @property
    def means_(self) -> Array:
        """Means ``(K, D)``."""
        return self.result_.means_

    @property
    def covariances_(self) -> Array:
        """Covariances in scikit-learn's shape."""
        return self.result_.covariances_

    @property
    def precisions_cholesky_(self) -> Array:
        """Upper factors U with precision ``U U'``."""
        return self.result_.precisions_cholesky_

    @property
    def rows_seen_(self) -> int:
        """Rows taken in."""
        return self._seen.rows_seen

    @property
    def effective_rows_(self) -> float:
        """Effective rows behind the model."""
        return self._seen.effective_rows

    @property
    def n_steps_(self) -> int:
        """Steps made, the first fit being one."""
        return self._seen.step
