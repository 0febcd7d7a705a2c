"""A table at one of its versions."""

from __future__ import annotations

from dataclasses import dataclass

from stream_gmm.io.source.files import redact


@dataclass(frozen=True)
class TableVersion:
    """A table that is read, and its version: of a Delta table a number, of an Iceberg table the id of a snapshot."""

    form: str
    path: str
    version: int

    def __str__(self) -> str:
        word = "snapshot" if self.form == "Iceberg" else "version"
        return f"{self.form} table {redact(self.path)}, {word} {self.version}"
