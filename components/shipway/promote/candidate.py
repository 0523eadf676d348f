"""Which version is to be promoted, and which one it would take over from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from shipway.errors import InputError
from shipway.lineage.documents import Release
from shipway.lineage.files import write_text
from shipway.model.promotion import aliases_of, any_release, release_of, stable_of
from shipway.model.registry import PREVIOUS, VERIFIED


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a promotion is about.

    Attributes:
        release: The version to promote.
        stable: The version to go back to; None when this is the first one.
    """

    release: Release
    stable: Release | None


def candidate(
    name: str, release_path: str | Path, stable_path: str | Path, version: str = "", override: str = "", who: str = ""
) -> Candidate:
    """Finds the version to promote and the one to go back to, and writes a Release document for each.

    Args:
        name: The model.
        release_path: Where the Release document of the version to promote goes.
        stable_path: Where that of the champion goes, or of `previous` when the champion itself is promoted again; an
            empty file where there is none (see `shipway.lineage.documents.read_optional`).
        version: A version's number or an alias; "" for `staging-verified`, what passed the smoke test last.
        override: Why a version that was rolled back is promoted all the same.
        who: Who overrides; "" for this process's account.

    Raises:
        InputError: There is no such model, version or alias, or nothing was verified on staging.
        NotBlessedError: The registry has no blessing of one of them.
        RejectedError: The version was rolled back, and there is no override.
        ShipwayError: MLflow cannot be reached.
    """
    aliases = aliases_of(name)
    if not version and VERIFIED not in aliases:
        raise InputError(
            f"model {name!r} has no version that passed its smoke test on staging (no alias {VERIFIED!r}); run the "
            "training pipeline with an endpoint, or name a version"
        )
    release = release_of(name, version or VERIFIED, override=override, who=who)
    stable = stable_of(name)
    if stable is not None and stable.version == release.version:
        before = aliases.get(PREVIOUS, release.version)
        stable = None if before == release.version else any_release(name, before)
    release.write(release_path)
    if stable is None:
        write_text(stable_path, "")
    else:
        stable.write(stable_path)
    return Candidate(release, stable)
