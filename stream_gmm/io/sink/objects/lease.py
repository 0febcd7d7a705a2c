"""The lease of a prefix in an object store, from nothing but writing, listing and removing objects.

Who wants the lease writes a *claim*, an object with a name of its own, and then lists all claims. If there is no
other living one, the lease is held; else the claim is removed again, and another attempt follows later. Of two
processes, the one whose claim was written last finds the claim of the other in its list, so that two never hold the
lease at once; that needs a store whose lists are up to date (S3, GCS and Azure are) and no conditional requests,
which not all stores have.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from dataclasses import asdict, dataclass, replace

from stream_gmm.errors import StorageError
from stream_gmm.io.sink.places import ObjectPlace
from stream_gmm.io.source.files import redact
from stream_gmm.io.store.lease import EXPIRY_SECONDS, Owner, hold_lease

CLAIMS = "_lease"
PROBE = f"{CLAIMS}/probe"
"""Written and removed to find out whether that is allowed; no claim."""


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

    @property
    def name(self) -> str:
        return f"{CLAIMS}/{self.owner.token}.json"

    def touch(self) -> None:
        self.place.write(self.name, json.dumps(asdict(self.owner), indent=1).encode())

    def release(self) -> None:
        with contextlib.suppress(StorageError):  # it expires
            self.place.remove(self.name)


def _take(place: ObjectPlace, owner: Owner) -> _Claim | Owner | None:
    # A token for each attempt: who is seen twice with the same one holds the lease, and does not only try to.
    claim = _Claim(place, replace(owner, token=uuid.uuid4().hex))
    try:
        claim.touch()
        found = place.list(CLAIMS)
        if claim.name not in found:
            claim.release()
            return None
        now = found[claim.name].mtime_ns  # by the clock of the store
        others = [
            o
            for name in found
            if name not in (claim.name, PROBE) and (o := _read_living(place, name, now)) is not None
        ]
    except BaseException:
        claim.release()
        raise
    if others:
        claim.release()
        return others[0]
    return claim


def _read_living(place: ObjectPlace, name: str, now: int) -> Owner | None:
    """Return the owner of a claim; None, and the claim is removed, if its process is gone."""
    try:
        owner = Owner(**json.loads(place.read(name)))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        owner = Owner("", "unknown", "unknown", 0, "unknown", "", "", "")
    info = place.list(CLAIMS).get(name)
    if info is None:
        return None
    if owner.is_gone or now - info.mtime_ns > EXPIRY_SECONDS * 1e9:
        place.remove(name)
        return None
    return owner
