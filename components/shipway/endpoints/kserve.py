"""The endpoint on KServe: an InferenceService a model and environment; see `kserve_store` for how it is changed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shipway.endpoints import control
from shipway.endpoints import kserve_objects as objects
from shipway.endpoints import kserve_pods as pods
from shipway.endpoints.client import Answer, UnreachableError, call, json_bytes
from shipway.endpoints.kserve_modes import RawMode, ServerlessMode
from shipway.endpoints.kserve_objects import MirrorOrder
from shipway.endpoints.kserve_state import Edit, Mode, Snapshot, complaints
from shipway.endpoints.kserve_store import Store
from shipway.endpoints.packages import check_blessed, local_package
from shipway.endpoints.protocol import (
    ConflictError,
    EndpointStatus,
    NotReadyError,
    RevisionStatus,
    UnsupportedError,
    revision_id,
)
from shipway.errors import InputError, ShipwayError
from shipway.spec.resources import duration_seconds

if TYPE_CHECKING:
    from shipway.endpoints.kserve_api import Cluster
    from shipway.endpoints.prometheus import Prometheus
    from shipway.endpoints.window import Window
    from shipway.lineage.documents import Release
    from shipway.spec import EndpointSettings

_POLL_SECONDS = 2.0
_SHIFT_SECONDS = 60.0
_PREDICT_SECONDS = 30.0
_RECORD_BYTES = 32 * 1024
_SCRAPED_SECONDS = 120.0


class KServeEndpoint:
    """Serves one model from an InferenceService.

    Args:
        name: The model's name.
        settings: The endpoint's settings.
        environment: `production`, or the word that is put behind the name.
        poll_seconds: How often the cluster is asked while something is awaited.

    Raises:
        InputError: KServe would not take the name.
    """

    def __init__(
        self, name: str, settings: EndpointSettings, environment: str, *, poll_seconds: float = _POLL_SECONDS
    ) -> None:
        self.name = name
        self._settings = settings
        self._kserve = settings.endpoint.kserve
        self._service = objects.service_name(name, environment)
        self._mode: Mode = RawMode(settings) if self._kserve.mode == "raw" else ServerlessMode(settings)
        self._poll = poll_seconds

    @cached_property
    def _cluster(self) -> Cluster:
        from shipway.endpoints.kserve_api import Cluster

        return Cluster(self._kserve.namespace)

    @cached_property
    def _store(self) -> Store:
        return Store(self.name, self._service, self._kserve.mode, self._cluster)

    def status(self) -> EndpointStatus:
        """See `Endpoint`."""
        return self._status(self._store.look())

    def stage(
        self, release: Release, revision: str = "", *, edges: Sequence[float] = (), expect: str | None = None
    ) -> EndpointStatus:
        """See `Endpoint`. The package's bytes are checked here, and once more by the server that loads them.

        Raises:
            NotBlessedError: No blessing names the release's digest.
            DigestMismatchError: The package's bytes are not the release's.
            NotReadyError: It did not become ready; the message has the reason. What was there before still is.
            UnsupportedError: The cluster's KServe cannot serve one revision more.
            ConflictError: See `Endpoint`.
        """
        check_blessed(release)
        found = revision or revision_id(release.version, release.digest)
        seen = self._store.look()
        self._store.check(seen, expect)
        if self._is_staged(seen, found, release):
            return self._status(seen)
        local_package(release)

        def edit(now: Snapshot) -> Edit:
            ledger = now.ledger.with_revision(found, release)
            if edges:
                ledger = ledger.model_copy(update={"edges": tuple(edges)})
            predictor = objects.predictor(
                self._service, found, release, self._settings, ledger.edges, self._control, now.ledger.serial + 1
            )
            changed = self._mode.staged(now, found, predictor)
            return Edit(
                changed.ledger.with_revision(found, release).model_copy(update={"edges": ledger.edges}), changed.spec
            )

        begun = self._store.change(expect, edit)
        self._check_kept(begun, found)
        try:
            return self._status(self._until_ready(begun, found, release))
        except NotReadyError:
            self._give_up(found)
            raise

    def shift(self, shares: Mapping[str, int], *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. Returns once KServe has taken the shares up.

        Raises:
            InputError: A revision is not there, or the shares do not add up to 100; nothing has changed.
            NotReadyError: A revision with a share is not ready; nothing has changed.
            ConflictError: See `Endpoint`.
        """

        def edit(now: Snapshot) -> Edit | None:
            self._check_shares(now, shares)
            wanted = {revision: shares.get(revision, 0) for revision in self._mode.revisions(now)}
            if wanted == self._mode.shares(now):
                return None
            self._check_ready(now, [revision for revision, percent in wanted.items() if percent])
            changed = self._mode.shifted(now, wanted)
            silent = [revision for revision, percent in wanted.items() if not percent]
            return Edit(changed.ledger.mirroring_only(silent), changed.spec)

        return self._status(self._settled(self._told(self._store.change(expect, edit))))

    def mirror(self, revision: str, percent: int, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. The servers read from `endpoint.control` what to mirror, some seconds later.

        Raises:
            InputError: The revision is not there, or has traffic of its own.
            UnsupportedError: `endpoint.control` is not set.
            ConflictError: See `Endpoint`.
        """
        if not self._control:
            raise UnsupportedError(
                f"{self.name}: this endpoint cannot mirror; set endpoint.control in the spec to a folder of the object "
                "store that steps may write and model servers read, as s3://bucket/control, and stage anew"
            )
        if not 0 <= percent <= 100:
            raise InputError(f"{self.name}: expected 0 to 100 % to be mirrored, found {percent}")

        def edit(now: Snapshot) -> Edit | None:
            mirrored = now.ledger.mirror
            if percent:
                share = self._mode.shares(now).get(revision)
                if share is None or share:
                    why = "is not there" if share is None else f"has {share} % of the traffic"
                    raise InputError(f"{self.name}: nothing can be mirrored to {revision}: it {why}")
                order: MirrorOrder | None = MirrorOrder(revision=revision, percent=percent)
            else:
                order = mirrored if mirrored and mirrored.revision != revision else None
            if order == mirrored:
                return None
            return Edit(now.ledger.model_copy(update={"mirror": order, "unsaid": True}))

        return self._status(self._told(self._store.change(expect, edit)))

    def retire(self, revision: str, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. Kubernetes ends the pods, each once its open requests have ended.

        Raises:
            InputError: It has traffic.
            ConflictError: See `Endpoint`.
        """

        def edit(now: Snapshot) -> Edit | None:
            share = self._mode.shares(now).get(revision)
            if share is None:
                return None
            if share:
                raise InputError(f"{self.name}: {revision} has {share} % of the traffic; shift that away first")
            changed = self._mode.retired(now, revision)
            left = [other for other in self._mode.revisions(now) if other != revision]
            return Edit(changed.ledger.only(left), changed.spec)

        return self._status(self._told(self._store.change(expect, edit)))

    def write_record(self, record: str, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`.

        Raises:
            InputError: It is longer than 32 KiB.
            ConflictError: See `Endpoint`.
        """
        if len(record.encode()) > _RECORD_BYTES:
            raise InputError(f"{self.name}: a record of {len(record.encode())} bytes; at most 32 KiB are kept")

        def edit(now: Snapshot) -> Edit | None:
            return None if record == now.record else Edit(now.ledger, record=record)

        return self._status(self._told(self._store.change(expect, edit)))

    def predict(self, revision: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """See `Endpoint`. Asks the revision's own Service: directly in the cluster, through the API server elsewhere.

        Raises:
            InputError: The revision is not there.
            UnreachableError: Nobody answered.
            UnsupportedError: Knative gives the revision no URL of its own.
        """
        seen = self._store.read()
        if revision not in self._mode.revisions(seen):
            raise InputError(f"{self.name}: there is no revision {revision}")
        body = json_bytes({"instances": [dict(row) for row in rows]})
        path = f"v1/models/{self._service}:predict"
        if address := self._mode.address(seen, revision):
            return call("POST", f"{address}/{path}", body, seconds=_PREDICT_SECONDS)
        service, port = self._workload(revision)
        if self._cluster.inside:
            return call("POST", f"{self._url(service, port)}/{path}", body, seconds=_PREDICT_SECONDS)
        return self._cluster.proxied(service, port, path, body, _PREDICT_SECONDS)

    def windows(self, since: float, until: float) -> dict[str, Window]:
        """See `Endpoint`. The counts are those of `endpoint.kserve.prometheus`.

        Raises:
            UnsupportedError: No Prometheus is named.
            ShipwayError: Prometheus does not answer, or does not scrape the servers.
        """
        from shipway.endpoints.prometheus import nothing

        metrics = self._prometheus
        seen = self._store.look()
        revisions = self._mode.revisions(seen)
        found = metrics.windows(revisions, since, until)
        missing = [revision for revision in revisions if revision not in found]
        if missing and len(missing) == len(revisions) and self._is_scraped(seen, missing) is False:
            raise ShipwayError(
                f"{self.name}: Prometheus at {metrics.url} has no metrics of {', '.join(missing)}, whose pods "
                f"have been ready for more than {_SCRAPED_SECONDS:g} s; let it scrape them (docs/kserve.md, Metrics)"
            )
        return {revision: found.get(revision) or nothing(revision, since, until) for revision in revisions}

    @property
    def lag_seconds(self) -> float:
        """See `Endpoint`: two scrapes, and the time a change of targets takes."""
        return 60.0

    def stop(self) -> EndpointStatus:
        """See `Endpoint`."""
        served = self.status()
        self._cluster.delete_service(self._service)
        deadline = time.monotonic() + duration_seconds(self._kserve.ready_timeout)
        while self._cluster.service(self._service) is not None:
            if time.monotonic() > deadline:
                raise ShipwayError(
                    f"{self.name}: InferenceService {self._service} was deleted and is still there after "
                    f"{self._kserve.ready_timeout}; see its finalizers"
                )
            time.sleep(self._poll)
        self._store.forget()
        if self._control and served.revisions:
            self._write_control(None)
        return served

    @cached_property
    def _prometheus(self) -> Prometheus:
        from shipway.endpoints.prometheus import Prometheus

        if not self._kserve.prometheus:
            raise UnsupportedError(
                f"{self.name}: no metrics to judge by; set endpoint.kserve.prometheus in the spec to the URL of the "
                "Prometheus that scrapes the model servers"
            )
        return Prometheus(self._kserve.prometheus, self._service, self._kserve.namespace)

    @property
    def _control(self) -> str:
        from shipway.lineage.storage import join

        folder = self._settings.endpoint.control
        return join(folder, self._kserve.namespace, f"{self._service}.json") if folder else ""

    # --- State ------------------------------------------------------------------------------------------------------

    def _status(self, seen: Snapshot) -> EndpointStatus:
        shares, mirror = self._mode.shares(seen), seen.ledger.mirror
        revisions = []
        for revision in self._mode.revisions(seen):
            known = seen.ledger.revisions.get(revision)
            reason = self._unready(seen, revision)
            revisions.append(
                RevisionStatus(
                    id=revision,
                    version=known.version if known else "",
                    digest=known.digest if known else "",
                    share=shares[revision],
                    ready=not reason,
                    mirror=mirror.percent if mirror and mirror.revision == revision and not seen.ledger.unsaid else 0,
                    reason=reason,
                )
            )
        url = str(seen.status.get("url") or (seen.status.get("address") or {}).get("url") or "")
        return EndpointStatus(
            name=self.name,
            url=url,
            revisions=tuple(sorted(revisions, key=lambda found: found.id)),
            generation=seen.generation,
            record=seen.record,
            edges=seen.ledger.edges if seen.service is not None else (),
            served_as=self._service,
        )

    def _unready(self, seen: Snapshot, revision: str, attempt: str = "") -> str:
        """Returns why a revision does not answer; "" when it does."""
        mine = pods.of_revision(seen.pods, revision, attempt)
        if any(pods.is_ready(pod) for pod in mine):
            return ""
        if (found := pods.fault(mine)) is not None:
            return found.text
        if not attempt and self._mode.idle(seen, revision):
            return ""
        return complaints(seen) or ("none of its pods is ready" if mine else "it has no pods")

    def _is_staged(self, seen: Snapshot, revision: str, release: Release) -> bool:
        known = seen.ledger.revisions.get(revision)
        there = revision in self._mode.revisions(seen) and known is not None and known.digest == release.digest
        return there and not self._unready(seen, revision)

    def _is_scraped(self, seen: Snapshot, revisions: Sequence[str]) -> bool | None:
        """Tells whether Prometheus should have seen the revisions' pods by now: None where it is too early."""
        since = [pods.ready_since(pod) for revision in revisions for pod in pods.of_revision(seen.pods, revision)]
        oldest = min((moment for moment in since if moment is not None), default=None)
        if oldest is None or time.time() - oldest < _SCRAPED_SECONDS:
            return None
        return self._prometheus.knows()

    # --- Checks -------------------------------------------------------------------------------------------------------

    def _check_shares(self, seen: Snapshot, shares: Mapping[str, int]) -> None:
        there = self._mode.revisions(seen)
        for revision, percent in shares.items():
            if revision not in there and percent:
                raise InputError(f"{self.name}: there is no revision {revision}, only {', '.join(there) or 'none'}")
            if not 0 <= percent <= 100:
                raise InputError(f"{self.name}: expected 0 to 100 % for {revision}, found {percent}")
        if (total := sum(shares.values())) != 100:
            raise InputError(f"{self.name}: the shares of the traffic add up to {total} %, expected 100")

    def _check_ready(self, seen: Snapshot, revisions: Sequence[str]) -> None:
        for revision in revisions:
            if reason := self._unready(seen, revision):
                raise NotReadyError(f"{self.name}: {revision} is not ready and gets no traffic: {reason}")

    def _check_kept(self, seen: Snapshot, revision: str) -> None:
        """Refuses a KServe that dropped the canary because it does not know the field.

        Raises:
            UnsupportedError: It did.
        """
        if revision not in self._mode.revisions(seen):
            raise UnsupportedError(
                f"{self.name}: KServe at {self._cluster.host} drops spec.canary, which it knows since 0.20; upgrade it "
                "and its custom resource definitions, or set endpoint.kserve.mode to serverless"
            )

    def _give_up(self, revision: str) -> None:
        """Takes away what did not become ready, unless it has traffic."""

        def edit(now: Snapshot) -> Edit | None:
            if self._mode.shares(now).get(revision) != 0:
                return None
            changed = self._mode.retired(now, revision)
            left = [other for other in self._mode.revisions(now) if other != revision]
            return Edit(changed.ledger.only(left), changed.spec)

        self._told(self._store.change(None, edit))

    # --- Waiting ------------------------------------------------------------------------------------------------------

    def _until_ready(self, begun: Snapshot, revision: str, release: Release) -> Snapshot:
        """Waits for a revision that was staged.

        Raises:
            NotReadyError: It did not become ready in time, or never will.
            ConflictError: It was taken away meanwhile.
        """
        what = f"{release.name} version {release.version} ({revision})"
        attempt = str(begun.ledger.serial)
        deadline = time.monotonic() + duration_seconds(self._kserve.ready_timeout)
        while True:
            seen = self._store.look()
            if revision not in self._mode.revisions(seen):
                raise ConflictError(f"{what}: somebody else took it away while it was starting")
            reason = self._unready(seen, revision, attempt)
            if not reason and self._mode.ready(seen, revision):
                return seen
            found = pods.fault(pods.of_revision(seen.pods, revision, attempt))
            late = time.monotonic() >= deadline
            if late or (found is not None and found.hopeless):
                said = pods.told(found, self._cluster.pod_log) if found else reason or "KServe does not call it ready"
                waited = f" after {self._kserve.ready_timeout}" if late else ""
                raise NotReadyError(f"{what} is not ready{waited}: {said}")
            time.sleep(self._poll)

    def _settled(self, seen: Snapshot) -> Snapshot:
        """Waits until KServe has taken the shares up.

        Raises:
            ShipwayError: It does not.
        """
        deadline = time.monotonic() + _SHIFT_SECONDS
        while awaited := self._mode.awaited(seen):
            if time.monotonic() >= deadline:
                raise ShipwayError(
                    f"{self.name}: the shares are set, but KServe has not taken them up after {_SHIFT_SECONDS:g} s: "
                    f"{awaited}; see that its controller runs (kubectl --namespace kserve get pods)"
                )
            time.sleep(self._poll)
            now = self._store.look()
            if now.generation != seen.generation:
                return now
            seen = now
        return seen

    # --- Mirror -------------------------------------------------------------------------------------------------------

    def _told(self, seen: Snapshot) -> Snapshot:
        """Tells the servers what to mirror, where that changed; after a crash in between the next change does it."""
        while self._control and seen.ledger.unsaid:
            order = seen.ledger.mirror
            self._write_control(order)

            def edit(now: Snapshot, order: MirrorOrder | None = order) -> Edit | None:
                if not now.ledger.unsaid or now.ledger.mirror != order:
                    return None
                return Edit(now.ledger.model_copy(update={"unsaid": False}))

            seen = self._store.change(None, edit)
        return seen

    def _write_control(self, order: MirrorOrder | None) -> None:
        told = None
        if order is not None:
            url = f"{self._url(*self._workload(order.revision))}/v1/models/{self._service}:predict"
            told = control.MirrorOrder(revision=order.revision, url=url, percent=order.percent)
        control.write_control(self._control, control.Control(mirror=told))

    def _workload(self, revision: str) -> tuple[str, int]:
        """Returns the name and port of a revision's Service.

        Raises:
            UnreachableError: There is none.
        """
        name = objects.workload(self._service, revision)
        found = self._cluster.kubernetes_service(name)
        if found is None:
            raise UnreachableError(f"{self.name}: KServe has made no Service {name} for {revision}")
        # A headless Service's name leads right to the pods.
        spec = found.get("spec") or {}
        port = int((spec.get("ports") or [{}])[0].get("port") or 80)
        return name, objects.PORT if spec.get("clusterIP") == "None" else port

    def _url(self, service: str, port: int) -> str:
        return f"http://{service}.{self._kserve.namespace}.svc:{port}"
