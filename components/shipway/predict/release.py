"""Which registered version scores a batch."""

from __future__ import annotations

from pathlib import Path

from shipway.lineage.documents import Release
from shipway.model.promotion import release_of


def resolve(name: str, version: str, path: str | Path) -> Release:
    """Finds a blessed version and writes its Release document.

    Args:
        name: The model.
        version: A version's number or an alias.
        path: Where the document goes.

    Raises:
        InputError: There is no such model, version or alias.
        NotBlessedError: The registry has no blessing of it.
        RejectedError: It was rolled back.
        ShipwayError: MLflow cannot be reached.
    """
    release = release_of(name, version)
    release.write(path)
    return release
