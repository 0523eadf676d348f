"""Copies of released packages that an endpoint may rely on, whatever becomes of the registry or a run's artifacts."""

import os
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from shipway.errors import DigestMismatchError, InputError, NotBlessedError, ShipwayError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Release
from shipway.lineage.files import atomic_folder, read_json
from shipway.lineage.locks import exclusive
from shipway.lineage.project import state_folder, state_lasts

_LOCK_SECONDS = 300.0
_UNUSED_SECONDS = 3600.0


def check_blessed(release: Release) -> None:
    """Refuses a release that no blessing names.

    Raises:
        NotBlessedError: The decision is another, or it is about another model.
    """
    blessing = release.blessing
    what = f"{release.name} version {release.version}"
    if blessing.decision != "blessed":
        raise NotBlessedError(
            f"{what} is not blessed (decision: {blessing.decision!r}); only a blessed model is deployed"
        )
    if blessing.model_digest != release.digest:
        raise NotBlessedError(f"{what} has digest {release.digest}, but the blessing names {blessing.model_digest}")


def package_folder(digest: str, state: Path | None = None) -> Path:
    """Returns where the copy of a package lies, or would lie.

    Args:
        digest: The package's digest.
        state: The state folder; default: this project's, or in a step's container that has none, a temporary folder.
    """
    if state is None:
        state = state_folder() if state_lasts() else Path(tempfile.gettempdir()) / "shipway"
    return state / "endpoints" / "packages" / digest.removeprefix("sha256:")


def local_package(release: Release, state: Path | None = None) -> Path:
    """Returns a verified copy of a release's package, made first where there is none.

    Args:
        release: The release; its `package_uri` is a local path, or a URI that `shipway.model.fetch` knows.
        state: The state folder; default: this project's.

    Raises:
        DigestMismatchError: The package's bytes are not the release's.
        InputError: There is no package at the URI.
    """
    target = package_folder(release.digest, state)
    target.parent.mkdir(parents=True, exist_ok=True)
    # One at a time, because two names may be about to serve the same package.
    with exclusive(target.parent.with_suffix(".lock"), _LOCK_SECONDS, f"copy of {release.package_uri}"):
        if target.is_dir() and digest_tree(target) == release.digest:
            # Says when it was asked for last; see remove_unused.
            os.utime(target)
        else:
            _copy(release, target)
    return target


def remove_unused(used: Collection[str], state: Path | None = None) -> None:
    """Removes the copies of packages that nobody refers to and nobody has asked for within the last hour.

    Args:
        used: Digests of the packages that stay.
        state: The state folder; default: this project's.
    """
    folder = package_folder("", state)
    if not folder.is_dir():
        return
    with exclusive(folder.with_suffix(".lock"), _LOCK_SECONDS, f"copies in {folder}"):
        for copy in folder.iterdir():
            if f"sha256:{copy.name}" not in used and time.time() - copy.stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(copy)


def golden_rows(package: Path) -> list[dict[str, Any]]:
    """Returns a package's golden rows as JSON rows of the columns that the model takes.

    Raises:
        InputError: The package has none.
    """
    import polars as pl

    info, rows = package / "package.json", package / "golden.parquet"
    if not (info.is_file() and rows.is_file()):
        raise InputError(f"{package}: no golden rows to make requests of (package.json, golden.parquet)")
    names = [column["name"] for column in read_json(info)["inputs"]]
    frame = pl.read_parquet(rows)
    floats = [name for name in names if frame.schema[name].is_decimal()]
    return list(frame.select(names).with_columns(pl.col(floats).cast(pl.Float64)).iter_rows(named=True))


def own_edges(package: Path) -> tuple[float, ...]:
    """Returns the edges of the histogram of a regression package's training labels; () for other tasks."""
    try:
        label = read_json(package / "statistics.json")["label"]
        is_regression = read_json(package / "package.json")["task"] == "regression"
        return tuple(map(float, label["edges"])) if is_regression and label["kind"] == "number" else ()
    except (OSError, ValueError, KeyError, TypeError, ShipwayError):
        # A histogram is no reason to refuse a model.
        return ()


def _copy(release: Release, target: Path) -> None:
    with atomic_folder(target) as work, tempfile.TemporaryDirectory(prefix=".fetch.", dir=target.parent) as scratch:
        source = _source(release, Path(scratch) / "package")
        shutil.copytree(source, work, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        found = digest_tree(work)
        if found != release.digest:
            raise DigestMismatchError(
                f"{release.name} version {release.version}: the package at {release.package_uri} has digest {found}, "
                f"the release says {release.digest}"
            )


def _source(release: Release, scratch: Path) -> Path:
    local = Path(release.package_uri.removeprefix("file://"))
    if local.is_dir():
        return local
    if ":/" not in release.package_uri:
        raise InputError(f"{release.name} version {release.version}: no package at {release.package_uri}")
    from shipway.model.fetch import fetch_package

    return fetch_package(release.package_uri, scratch)
