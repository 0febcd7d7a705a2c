"""The lease of a prefix in an object store, from nothing but writing, listing and removing objects.

Who wants the lease writes a *claim*, an object with a name of its own, and then lists all claims. If there is no
other living one, the lease is held; else the claim is removed again, and another attempt follows later. Of two
processes, the one whose claim was written last finds the claim of the other in its list, so that two never hold the
lease at once; that needs a store whose lists are up to date (S3, GCS and Azure are) and no conditional requests,
which not all stores have. Of several that want it at the same moment, the one with the smallest token leaves its
claim there and looks again: the others remove theirs, so that one of them gets it.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from dataclasses import asdict, dataclass, replace

from stream_gmm.errors import StorageError
from stream_gmm.io.sink.places import ObjectPlace
from stream_gmm.io.source.files import redact
from stream_gmm.io.store.lease import EXPIRY_SECONDS, Owner, hold_lease

CLAIMS = "_lease"
PROBE = f"{CLAIMS}/probe"
"""Written and removed to find out whether that is allowed; no claim."""
_PAUSES = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
"""How long the claim with the smallest token waits for others to go, in seconds."""


def hold_prefix(place: ObjectPlace, *, run: str = "", wait: float = 0.0) -> contextlib.AbstractContextManager[None]:
    """Return a context in which this process alone writes below a prefix; as ``hold_folder`` for folders.

    Raises
    ------
    FolderInUseError
        If another process holds it, and still does after ``wait`` seconds; says who it is.
    StorageError
        If the store does not answer, or refuses.
    """
    return hold_lease(redact(place.uri), place.uri, lambda owner: _take(place, owner), run=run, wait=wait)


@dataclass(frozen=True)
class _Claim:
    place: ObjectPlace
    owner: Owner
    held: bool = False
    """Whether the lease is held, and not only wanted."""

    @property
    def name(self) -> str:
        return f"{CLAIMS}/{self.owner.token}.json"

    def touch(self) -> None:
        self.place.write(self.name, json.dumps({**asdict(self.owner), "held": self.held}, indent=1).encode())

    def release(self) -> None:
        with contextlib.suppress(StorageError):  # it expires
            self.place.remove(self.name)


def _take(place: ObjectPlace, owner: Owner) -> _Claim | Owner | None:
    # A token for each attempt: who is seen twice with the same one holds the lease, and does not only try to.
    claim = _Claim(place, replace(owner, token=uuid.uuid4().hex))
    others: list[_Claim] = []
    try:
        claim.touch()
        for pause in _PAUSES:
            time.sleep(pause)
            found = place.list(CLAIMS)
            if claim.name not in found:
                others = []
                break
            now = found[claim.name].mtime_ns  # by the clock of the store
            others = [
                other
                for name in found
                if name not in (claim.name, PROBE) and (other := _read_living(place, name, now)) is not None
            ]
            if not others:
                held = replace(claim, held=True)
                held.touch()
                return held
            if any(other.held or other.owner.token < claim.owner.token for other in others):
                break
    except BaseException:
        claim.release()
        raise
    claim.release()
    return others[0].owner if others else None


def _read_living(place: ObjectPlace, name: str, now: int) -> _Claim | None:
    """Return a claim; None, and the claim is removed, if its process is gone."""
    try:
        content = json.loads(place.read(name))
        held = bool(content.pop("held", True))
        owner = Owner(**content)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError):
        held, owner = True, Owner("", "unknown", "unknown", 0, "unknown", "", "", "")
    info = place.list(CLAIMS).get(name)
    if info is None:
        return None
    if owner.is_gone or now - info.mtime_ns > EXPIRY_SECONDS * 1e9:
        place.remove(name)
        return None
    return _Claim(place, owner, held)
