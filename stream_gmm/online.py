"""OnlineGaussianMixture: a mixture that learns from batches as they come, and never sees a row twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from stream_gmm.core.model.covariance import family_named
from stream_gmm.core.model.moments import Array
from stream_gmm.core.online import OnlineRule, OnlineState, feed_rows, make_online_result
from stream_gmm.core.result import FitResult, as_rows, column_names
from stream_gmm.errors import InputDataError, NotFittedError
from stream_gmm.io.sink.stream import arrow_batches, decode_batch
from stream_gmm.io.source.schema import numeric_columns
from stream_gmm.io.store.states import SavedStream, load_state, save_state


class OnlineGaussianMixture:
    """Gaussian mixture fitted to a stream by stepwise EM (Cappe & Moulines 2009), in bounded memory.

    The first rows are fitted to convergence; then every step blends the statistics of new rows with the running
    statistics of the model. The result does not depend on how the stream is cut into batches. Columns of frames and
    Arrow tables go by name.

    Parameters
    ----------
    n_components, covariance_type, reg_covar, n_init, random_state
        As in :class:`stream_gmm.GaussianMixture`.
    half_life
        Rows after which a row counts half, for streams that drift; None: all rows count.
    power
        Step sizes are ``(t + 2)^-power`` without a half-life.
    step_rows, warmup_rows
        Rows of a step, and before the first fit; None: by K and the columns.
    prior_rows
        Pseudo-rows in every component that keep it from collapsing; they fade as rows arrive.
    outlier_quantile
        The outlier threshold follows this quantile of the log-density.
    missing
        ``"error"`` or ``"drop"``: what to do with rows that hold a null, NaN, infinity or a value beyond 1e150.

    Attributes
    ----------
    weights_, means_, covariances_, precisions_cholesky_
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
    >>> sorted(gm.means_.round().ravel().tolist())
    [0.0, 10.0]
    """

    def __init__(
        self,
        n_components: int = 1,
        *,
        covariance_type: str = "full",
        half_life: float | None = None,
        power: float = 0.6,
        step_rows: int | None = None,
        warmup_rows: int | None = None,
        n_init: int = 3,
        prior_rows: float = 1.0,
        reg_covar: float | None = None,
        outlier_quantile: float = 0.01,
        random_state: int = 0,
        missing: str = "error",
    ) -> None:
        self._rule = OnlineRule(
            n_components, family_named(covariance_type), half_life, power, step_rows, warmup_rows, n_init,
            prior_rows, reg_covar, outlier_quantile, random_state,
        )  # fmt: skip
        self.missing = missing
        self._state: OnlineState | None = None
        self._columns: tuple[str, ...] = ()
        self.rows_dropped_ = 0

    def partial_fit(self, X: Any, y: Any = None) -> OnlineGaussianMixture:
        """Learn from rows: an array ``(n, D)``, a data frame, an Arrow table or record batch. Returns self.

        All of them are learnt, or with an error none.

        Raises
        ------
        InputDataError
            If the rows have other columns than those before, or a value that is missing.
        """
        del y
        before = self._state, self._columns, self.rows_dropped_
        try:
            for rows in self._rows(X):
                state = self._state or OnlineState.start(rows.shape[1])
                if rows.shape[1] != state.n_features:
                    raise InputDataError(f"{rows.shape[1]} columns; the rows before had {state.n_features}.")
                self._state = feed_rows(state, rows, self._rule)
        except BaseException:
            self._state, self._columns, self.rows_dropped_ = before
            raise
        return self

    def fit_stream(self, batches: Iterable[Any]) -> OnlineGaussianMixture:
        """Learn from every batch of an iterator; with an error in one, those before it are learnt. Returns self.

        ``rows_seen_`` tells where an interrupted stream has to go on.
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
            self._columns = self._columns or numeric_columns(batch.schema)
            chunk = decode_batch(batch, number, self._columns, self.missing)
            self.rows_dropped_ += chunk.size - len(chunk.rows)
            yield chunk.rows

    def _plain_rows(self, X: Any) -> Array:
        self._columns = self._columns or column_names(X)
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
        if self._state is None:
            raise NotFittedError("there is nothing to save before the first row.")
        save_state(SavedStream(self._state, self._rule, self._columns), path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], missing: str = "error") -> OnlineGaussianMixture:
        """Return the mixture of a state file; ``missing`` as in the constructor.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, or no state file.
        """
        saved, out = load_state(path), cls(missing=missing)
        out._rule, out._state, out._columns = saved.rule, saved.state, saved.columns
        return out

    @property
    def _seen(self) -> OnlineState:
        return self._state if self._state is not None else OnlineState.start(1)

    @property
    def result_(self) -> FitResult:
        """The model as it is now."""
        return make_online_result(self._seen, self._rule, self._columns)

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

    def predict(self, X: Any) -> np.ndarray[Any, Any]:
        """Return the component of highest responsibility ``(N,)``."""
        return self.result_.predict(X)

    def predict_proba(self, X: Any) -> Array:
        """Return responsibilities ``(N, K)``."""
        return self.result_.predict_proba(X)

    def score_samples(self, X: Any) -> Array:
        """Return the log-density of each row ``(N,)``."""
        return self.result_.score_samples(X)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log-density per row."""
        del y
        return float(self.result_.score_samples(X).mean())
