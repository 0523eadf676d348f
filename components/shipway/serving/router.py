"""The revisions of a server, and what each of them gets of the traffic.

Everything here runs on the event loop. A revision is put there and taken away by one caller at a time, which may take
as long as loading takes; the shares are changed in between at any moment and all at once, so that traffic comes back
within milliseconds whatever else is going on.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shipway.endpoints.packages import own_edges
from shipway.endpoints.protocol import ConflictError
from shipway.errors import ShipwayError
from shipway.serving.isolated import Worker, WorkerSettings, start_worker
from shipway.serving.limits import Refusal
from shipway.serving.mirror import Mirror, MirrorTarget, RevisionTarget
from shipway.serving.model_slot import Loader, ModelSlot, ServedInfo, load_package, open_slot
from shipway.serving.revision import Order, Revision, check_order
from shipway.serving.routes import Routes

if TYPE_CHECKING:
    from shipway.serving.telemetry import Telemetry

log = logging.getLogger("shipway.serving")

_RESTART_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How revisions are held.

    Attributes:
        allow_unblessed: Whether a revision without a blessing is taken.
        edges: Inner edges of the prediction histogram of a regression model; () takes the first package's own.
        worker: How processes of revisions are run.
    """

    allow_unblessed: bool = False
    edges: tuple[float, ...] = ()
    worker: WorkerSettings = field(default_factory=WorkerSettings)


class Router:
    """Holds the revisions of one model.

    Attributes:
        name: The model's name, as in the URL.
        routes: Who answers what.
        mirror: What answered requests are mirrored to; None for nothing.
        telemetry: Counts what the revisions do.

    Args:
        name: See above.
        telemetry: See above.
        settings: How revisions are held.
        loader: Turns a path and a digest into a package, for slots.
    """

    def __init__(
        self,
        name: str,
        telemetry: "Telemetry",
        settings: RouterSettings | None = None,
        loader: Loader = load_package,
    ) -> None:
        self.name = name
        self.telemetry = telemetry
        self.routes = Routes([])
        self.mirror: Mirror | None = None
        self._settings = settings or RouterSettings()
        self._loader = loader
        self._revisions: dict[str, Revision] = {}
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def revisions(self) -> list[Revision]:
        """The revisions, in the order they were put there."""
        return list(self._revisions.values())

    @property
    def ready(self) -> bool:
        """Whether every request would find a revision that answers."""
        shared = [revision for revision in self._revisions.values() if revision.share]
        return bool(shared) and all(found.ready or self.fallback(found) is not None for found in shared)

    def revision(self, revision: str) -> Revision:
        """Returns a revision by id.

        Raises:
            Refusal: With status 404.
        """
        found = self._revisions.get(revision)
        if found is None:
            there = ", ".join(self._revisions) or "none"
            raise Refusal(404, f"no revision {revision!r} of model {self.name!r} here; there is {there}")
        return found

    def of_version(self, version: str) -> Revision | None:
        """Returns the revision of a version: the one with the greatest share, of equals the oldest."""
        found = [revision for revision in self._revisions.values() if revision.version == version]
        return max(found, key=lambda revision: revision.share, default=None)

    def fallback(self, revision: Revision, only_older: bool = False) -> Revision | None:
        """Returns who answers for a revision that cannot: the ready one with the greatest share, else an older one.

        A newer one without traffic, as a candidate that is only mirrored to, is never answered from.

        Args:
            revision: The revision that cannot answer.
            only_older: Whether only those that were there before it count.
        """
        older = True
        best: Revision | None = None
        for found in self._revisions.values():
            if found is revision:
                older = False
            elif (
                found.ready
                and (older or (found.share and not only_older))
                and not (self.mirror is not None and self.mirror.revision == found.id)
                and (best is None or found.share > best.share)
            ):
                best = found
        return best

    def table(self) -> list[dict[str, Any]]:
        """Returns the revisions for the administration."""
        mirror = self.mirror
        return [
            {
                "id": found.id,
                "version": found.version,
                "digest": found.digest,
                "share": found.share,
                "ready": found.ready,
                "mirror": mirror.percent if mirror is not None and mirror.revision == found.id else 0,
                "reason": found.why_not,
                "isolated": found.worker is not None or (found.slot is None and found.isolated),
                "pid": found.worker.process.pid if found.worker is not None and not found.worker.gone else 0,
            }
            for found in self._revisions.values()
        ]

    @property
    def edges(self) -> tuple[float, ...]:
        """Inner edges of the histogram of predictions: what was set, else those of the first revision."""
        own = next((found.edges for found in self._revisions.values() if found.edges), ())
        return self._settings.edges or own

    async def stage(self, order: Order) -> Revision:
        """Puts a revision there and waits until it is ready; its share stays, which is 0 for a new one.

        One that is there as ordered and ready is left alone. One that moves between a slot and a process of its own
        answers from where it was until it is ready where it goes.

        Raises:
            NotBlessedError: It comes without a blessing that names it.
            DigestMismatchError: The bytes are not those of its digest.
            ConflictError: Another package has its id.
            ShipwayError: It cannot be loaded. Where it was there before, it stays as it was.
        """
        digest = check_order(self.name, order, self._settings.allow_unblessed)
        async with self._one_at_a_time:
            there = self._revisions.get(order.id)
            if there is not None and there.info is not None and digest not in (None, there.digest):
                raise ConflictError(f"revision {order.id} is there with digest {there.digest}, not {digest}")
            if there is not None and there.ready and (there.slot is None) == order.isolated:
                return there
            try:
                slot, worker = await self._load(order, digest)
            except ShipwayError as error:
                if there is not None and not there.ready:
                    there.reason = str(error)
                raise
            return await self._put(order, slot, worker)

    def expect(self, order: Order, reason: str = "") -> None:
        """Notes a revision that is about to be loaded, or could not be."""
        revision = self._revisions.setdefault(
            order.id,
            Revision(self.name, order, order.digest or (order.blessing.model_digest if order.blessing else "")),
        )
        revision.reason = reason

    async def retire(self, revision: str) -> None:
        """Takes a revision away once its open requests have ended; one that is not there is no fault.

        Raises:
            Refusal: It has traffic (409).
        """
        async with self._one_at_a_time:
            found = self._revisions.get(revision)
            if found is None:
                return
            if found.share:
                raise Refusal(409, f"revision {revision} has {found.share} % of the traffic; shift that first")
            if self.mirror is not None and self.mirror.revision == revision:
                self._set_mirror(None)
            del self._revisions[revision]
            self._reroute()
            self.telemetry.forget(revision)
            if found.worker is not None:
                await found.worker.close()

    def shift(self, shares: Mapping[str, int], mirror: tuple[str, int] | None) -> None:
        """Gives revisions their shares, and sets what is mirrored to; all at once, or nothing.

        Args:
            shares: Revision -> percent; those not named get none.
            mirror: The revision to mirror to, and the percent of the requests; None for nothing.

        Raises:
            Refusal: 400 the shares do not add up to 100, or the mirrored one has a share; 404 a revision is not there;
                409 one with a share is not ready.
        """
        named = [self.revision(revision) for revision in shares]
        if any(not 0 <= share <= 100 for share in shares.values()) or sum(shares.values()) != 100:
            raise Refusal(400, f"expected shares from 0 to 100 that add up to 100, found {dict(shares)}")
        for revision in named:
            if shares[revision.id] and not revision.ready:
                raise Refusal(409, f"revision {revision.id} is not ready: {revision.why_not}")
        target = self._mirror_target(shares, mirror)
        for revision in self._revisions.values():
            revision.share = shares.get(revision.id, 0)
        self._reroute()
        now = self.mirror
        if target is None or mirror is None:
            self._set_mirror(None)
        elif now is None or (now.revision, now.percent) != mirror:
            self.mirror_to(target.id, mirror[1], RevisionTarget(target), target.version, target.info, target.edges)

    def mirror_to(
        self,
        revision: str,
        percent: int,
        target: MirrorTarget,
        version: str,
        info: ServedInfo | None,
        edges: Sequence[float],
    ) -> None:
        """Mirrors to a target, in the place of what was mirrored to before."""
        assert info is not None  # noqa: S101 - of a revision that was loaded
        self._set_mirror(
            Mirror(revision, percent, target, self.telemetry.revision(revision, version, info, edges)),
        )

    def stop_mirror(self) -> None:
        """Mirrors nothing from now on."""
        self._set_mirror(None)

    async def replace_all(self, order: Order) -> tuple[Revision, bool]:
        """Serves one revision with all of the traffic and takes the rest away; returns it, and whether that is new.

        Raises:
            ShipwayError: As `stage`; what was served before still is.
        """
        same = [
            found
            for found in self._revisions.values()
            if found.share == 100 and found.ready and (found.version, found.digest) == (order.version, order.digest)
        ]
        if same and same[0].slot is not None:
            check_order(self.name, order, self._settings.allow_unblessed)
            return same[0], False
        revision = await self.stage(replace(order, id=same[0].id if same else order.id, isolated=False))
        changed = revision.share != 100
        self.shift({revision.id: 100}, None)
        await self._retire_all_but(revision.id)
        return revision, changed

    async def unload(self) -> bool:
        """Takes everything away, traffic or not; returns whether there was something."""
        had = bool(self._revisions)
        self._set_mirror(None)
        for revision in self._revisions.values():
            revision.share = 0
        self._reroute()
        await self._retire_all_but("")
        return had

    async def close(self) -> None:
        """Ends mirroring and every process of a revision, whatever they are at."""
        self._closing = True
        mirror, self.mirror = self.mirror, None
        if mirror is not None:
            await mirror.close()
        workers = [revision.worker for revision in self._revisions.values() if revision.worker is not None]
        for worker in workers:
            worker.kill("the server ends")
        await asyncio.gather(*(worker.ended.wait() for worker in workers))
        for task in list(self._tasks):
            task.cancel()

    async def _retire_all_but(self, kept: str) -> None:
        for revision in [found for found in self._revisions if found != kept]:
            await self.retire(revision)

    async def _load(self, order: Order, digest: str | None) -> tuple[ModelSlot | None, Worker | None]:
        what = f"model {self.name} version {order.version}"
        if order.isolated:
            return None, await start_worker(order.id, order.path, digest, what, self._settings.worker)
        return await asyncio.to_thread(open_slot, order.path, digest, what, self._loader), None

    async def _put(self, order: Order, slot: ModelSlot | None, worker: Worker | None) -> Revision:
        digest = slot.digest if slot is not None else worker.info.digest if worker and worker.info else ""
        info: ServedInfo | None = slot.info if slot is not None else worker.info if worker is not None else None
        assert info is not None  # noqa: S101 - one of both was loaded
        revision = self._revisions.get(order.id)
        if revision is None or revision.info is None:
            place = revision
            revision = Revision(self.name, order, digest)
            revision.share = place.share if place is not None else 0
            self._revisions[order.id] = revision
        before = revision.worker
        if not revision.edges and info.task == "regression":
            revision.edges = self.edges or await asyncio.to_thread(own_edges, order.path)
        revision.info, revision.order, revision.isolated = info, order, worker is not None
        revision.count_by(self.telemetry.revision(revision.id, order.version, info, revision.edges))
        revision.slot, revision.worker, revision.reason = slot, worker, ""
        self._reroute()
        if worker is not None:
            self._keep(self._watch(revision, worker))
        if before is not None:
            self._keep(before.close())
        return revision

    async def _watch(self, revision: Revision, worker: Worker) -> None:
        """Says when a process ends, and starts it anew where nobody else could answer for it."""
        await worker.ended.wait()
        while revision.worker is worker and not self._closing and self._revisions.get(revision.id) is revision:
            log.error("revision %s: %s", revision.id, worker.gone)
            if not revision.share or self.fallback(revision) is not None:
                return
            try:
                await self.stage(revision.order)
            except ShipwayError as error:
                log.error("revision %s cannot be started anew: %s", revision.id, error)
                await asyncio.sleep(_RESTART_SECONDS)

    def _mirror_target(self, shares: Mapping[str, int], mirror: tuple[str, int] | None) -> Revision | None:
        if mirror is None:
            return None
        target = self.revision(mirror[0])
        if not 0 < mirror[1] <= 100:
            raise Refusal(400, f"expected 1 to 100 percent to mirror, found {mirror[1]}")
        if shares.get(target.id):
            raise Refusal(400, f"revision {target.id} has traffic of its own; nothing can be mirrored to it")
        if target.info is None:
            raise Refusal(409, f"revision {target.id} is not ready: {target.why_not}")
        return target

    def _set_mirror(self, mirror: Mirror | None) -> None:
        before, self.mirror = self.mirror, mirror
        if before is not None:
            self._keep(before.close())

    def _reroute(self) -> None:
        self.routes = Routes(list(self._revisions.values()))

    def _keep(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
