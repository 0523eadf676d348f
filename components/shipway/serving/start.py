"""What a server serves when it starts: one package, or the revisions of a table."""

import asyncio
import logging
from pathlib import Path

from shipway.endpoints.protocol import revision_id
from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import read_json
from shipway.serving.limits import Refusal
from shipway.serving.revision import Order
from shipway.serving.router import Router
from shipway.serving.settings import ServerSettings, Table

log = logging.getLogger("shipway.serving")

_REGISTRY = ("models:", "runs:", "mlflow-artifacts:")


async def load_all(router: Router, settings: ServerSettings, package: Path) -> None:
    """Loads what a server starts with; the router is ready once every revision with a share is.

    Args:
        router: The revisions.
        settings: The server's.
        package: The package's folder on this machine, where there is no table.

    Raises:
        ShipwayError: A revision with a share cannot be loaded. One without is reported as not ready.
    """
    if settings.table is None:
        order = await _order(settings, package)
        await router.stage(order)
        router.shift({order.id: 100}, None)
    else:
        await _load_table(router, settings.table)


def local_package(package: str, scratch: Path) -> Path:
    """Returns a package's folder on this machine, downloaded first where it lies elsewhere.

    Raises:
        InputError: There is none.
    """
    path = Path(package.removeprefix("file://"))
    if path.is_dir():
        return path.absolute()
    if "://" not in package and not package.startswith(_REGISTRY):
        raise InputError(f"{package}: no model package there")
    from shipway.model.fetch import fetch_package

    return fetch_package(package, scratch / "package")


def own_name(package: Path) -> str:
    """Returns a package's own name.

    Raises:
        InputError: It is no package.
    """
    try:
        name = read_json(package / "package.json")["name"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{package}: not a model package (no package.json with a name)") from error
    return str(name)


async def _order(settings: ServerSettings, package: Path) -> Order:
    digest = settings.digest or (settings.blessing.model_digest if settings.blessing else None)
    named = digest
    if named is None:
        from shipway.lineage.digests import digest_tree

        named = await asyncio.to_thread(digest_tree, package)
    version = settings.version or named.removeprefix("sha256:")[:12]
    revision = settings.revision or revision_id(version, named).lower().replace("_", "-")
    return Order(revision, package, version, digest, settings.blessing)


async def _load_table(router: Router, table: Table) -> None:
    orders = [revision.order(revision.id) for revision in table.revisions]
    for order in orders:
        router.expect(order)
    shares = {revision: share for revision, share in table.shares.items() if share}
    await asyncio.gather(*(router.stage(order) for order in orders if order.id in shares))
    try:
        if shares:
            router.shift(shares, None)
        for order in orders:
            if order.id not in shares:
                await _try(router, order)
        # A shift may have come while the last ones were loaded, and it holds.
        present = {revision.id: revision.share for revision in router.revisions if revision.share}
        if present and table.mirror is not None and router.revision(table.mirror.revision).info is not None:
            router.shift(present, (table.mirror.revision, table.mirror.percent))
    except Refusal as error:
        raise InputError(f"--table: {error.reason}") from error


async def _try(router: Router, order: Order) -> None:
    """Stages a revision without traffic; where that fails, the server goes on without it."""
    try:
        await router.stage(order)
    except ShipwayError as error:
        log.error("revision %s cannot be loaded: %s", order.id, error)
        router.expect(order, str(error))
