"""The penalty of a fit from its options and the profile of the data; and the atoms that the recording step allows."""

from __future__ import annotations

from stream_gmm.core.model.params import MixtureParams
from stream_gmm.core.mstep.penalty import Penalty, PseudoRows
from stream_gmm.core.mstep.resolution import Resolution
from stream_gmm.pipeline.fit.settings import Settings
from stream_gmm.pipeline.passes.profile import Profile

NAMED_COLUMNS = 4
ATOMS = "atoms, as narrow as the recording step"


def make_penalty(profile: Profile, settings: Settings) -> Penalty:
    """Return what keeps covariances away from singular ones; with a resolution, no narrower than the recording step.

    Raises
    ------
    ConfigError
        If the resolution names a column that there is not.
    """
    base = settings.penalty_of(profile.moments)
    steps = settings.find_steps(profile.columns, profile.sample, {t.name for t in profile.transforms})
    return Resolution.of(base, steps) if isinstance(base, PseudoRows) and steps.any() else base


def describe_atoms(params: MixtureParams, profile: Profile, settings: Settings) -> str:
    """Return the components that are as narrow as the recording step, with column and value; or nothing."""
    penalty = make_penalty(profile, settings)
    if not isinstance(penalty, Resolution):
        return ""
    found, steps = [], (12.0 * penalty.bound) ** 0.5
    for component, columns in penalty.find_atoms(params).items():
        recorded = {j: round(params.means[component, j] / steps[j]) * steps[j] for j in columns[:NAMED_COLUMNS]}
        values = [f"{profile.columns[j]} = {value:.6g}" for j, value in recorded.items()]
        more = f" and {len(columns) - NAMED_COLUMNS} more" if len(columns) > NAMED_COLUMNS else ""
        found.append(f"component {component}: {', '.join(values)}{more}")
    return f"{ATOMS}: {'; '.join(found)}." if found else ""
