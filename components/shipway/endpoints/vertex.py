"""A Vertex AI Endpoint.

A revision is a deployed model of the Endpoint NAME-ENVIRONMENT; the shares are its traffic split. Vertex AI neither
mirrors nor lets one ask a deployed model of its own (googleapis/python-aiplatform#827). Where `endpoint.control` is
set, a candidate is therefore deployed a second time, alone on an Endpoint of its own (the shadow): there it can be
asked, and the live servers mirror to it as the control document tells them. Without it, only a revision with all of the
traffic can be asked.

What Vertex AI has no field for is kept in the Endpoint's description; see `vertex_state`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from shipway.endpoints.client import Answer, json_bytes
from shipway.endpoints.control import read_control
from shipway.endpoints.packages import check_blessed, local_package, own_edges
from shipway.endpoints.protocol import EndpointStatus, NotReadyError, RevisionStatus, UnsupportedError, revision_id
from shipway.endpoints.vertex_client import Monitoring, Vertex
from shipway.endpoints.vertex_deployments import ALL, Deployments
from shipway.endpoints.vertex_metrics import Counts, read_counts, read_lag
from shipway.endpoints.vertex_models import Served, upload
from shipway.endpoints.vertex_resource import check_generation
from shipway.endpoints.vertex_state import (
    Facts,
    deployed_for,
    deployed_ids,
    endpoint_id,
    facts_of,
    generation_of,
    refuse_with_traffic,
    share_of,
    unready,
)
from shipway.endpoints.window import MirrorCounts, Window
from shipway.errors import InputError

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import Endpoint as VertexResource

    from shipway.lineage.documents import Release
    from shipway.spec.rollout import EndpointSettings

_logger = logging.getLogger("shipway.endpoints")

_RECORD_BYTES = 32 * 1024
_PREDICT_SECONDS = 65.0
_STAGING = "staging"
_SET_CONTROL = (
    "set endpoint.control to a folder in Google Cloud Storage, as gs://bucket/control: then a candidate is deployed on "
    "an endpoint of its own too"
)


class VertexEndpoint:
    """Serves one model on Vertex AI; see `Endpoint`.

    Args:
        name: The model's name.
        settings: What the spec says of endpoints and of Vertex AI.
        environment: `staging` or `production`; each is an Endpoint of its own.

    Raises:
        InputError: There is no project, or project or location are malformed, or Google's client is not installed.
    """

    def __init__(self, name: str, settings: EndpointSettings, environment: str) -> None:
        self._name = name
        self._settings = settings
        self._environment = environment
        self._vertex = Vertex(settings.vertex)
        self._deployments = Deployments(name, settings, environment, self._vertex)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._name

    def status(self) -> EndpointStatus:
        """See `Endpoint`."""
        return self._status(self._deployments.primary.read())

    def stage(
        self,
        release: Release,
        revision: str = "",
        *,
        edges: Sequence[float] = (),
        expect: str | None = None,
    ) -> EndpointStatus:
        """See `Endpoint`. Takes minutes; whoever comes after a crash goes on with what was begun."""
        check_blessed(release)
        wanted = revision or revision_id(release.version, release.digest)
        what = f"staging {release.name} version {release.version} as {wanted} on Vertex AI"
        package = local_package(release)
        before = self._deployments.primary.read()
        check_generation(what, before, expect)
        facts = facts_of(before) if before is not None else Facts()
        known, there = facts.revisions.get(wanted), deployed_for(before, facts, wanted)
        is_same = known is not None and (known.version, known.digest) == (release.version, release.digest)
        if there is None or not is_same or unready(there, known):
            own = tuple(edges) or tuple(facts.edges) or own_edges(package)
            model = upload(self._vertex, self._settings, Served(release, wanted, self._environment, own), package)
            if there is not None or (known is not None and not is_same):
                self._deployments.take_away(what, wanted, expect)
                expect = None
            self._deployments.put(what, wanted, Served(release, wanted, self._environment, own), model, expect)
        if self._deployments.control and self._environment != _STAGING and self._deployments.is_candidate(wanted):
            self._deployments.put_shadow(what, wanted)
        return self.status()

    def shift(self, shares: Mapping[str, int], *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. Vertex AI picks a revision by chance for each request; there is no sticky assignment."""
        what = f"shifting the traffic of {self._name} on Vertex AI"
        check_shares(what, shares)
        self._deployments.existing(what, expect)

        def decide(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            split = {}
            for revision, percent in shares.items():
                deployed = deployed_for(endpoint, facts, revision)
                if deployed is None and revision not in facts.revisions:
                    raise self._deployments.unknown(what, revision, facts)
                reason = unready(deployed, facts.revisions.get(revision))
                if percent and (deployed is None or reason):
                    raise NotReadyError(f"{what}: {revision} is not ready: {reason}; nothing has changed")
                if percent and deployed is not None:
                    split[deployed.id] = percent
            has_share = facts.mirror is not None and shares.get(facts.mirror[0], 0) > 0
            return facts.model_copy(update={"mirror": None}) if has_share else facts, split

        after = self._deployments.primary.change(what, decide, expect)
        try:
            self._deployments.tell(facts_of(after))
        except InputError as error:
            # The traffic has moved, which may have been a rollback; the status says what is still mirrored.
            _logger.warning("%s: done, but the servers were not told what to mirror: %s", what, error)
        return self._status(after)

    def mirror(self, revision: str, percent: int, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. The revision is deployed on a shadow endpoint first, where it is not yet."""
        what = f"mirroring {percent} % of {self._name}'s requests to {revision} on Vertex AI"
        if not 0 <= percent <= 100:
            raise InputError(f"{what}: expected 0 to 100 percent")
        if percent and not self._deployments.control:
            raise UnsupportedError(f"{what}: Vertex AI has no mirroring of its own; {_SET_CONTROL}")
        facts = facts_of(self._deployments.existing(what, expect))
        if revision not in facts.revisions:
            raise self._deployments.unknown(what, revision, facts)
        if percent and not facts.revisions[revision].shadow:
            self._deployments.refuse_traffic(what, revision)
            self._deployments.put_shadow(what, revision, expect)
            expect = None

        def decide(facts: Facts, endpoint: VertexResource) -> tuple[Facts, dict[str, int]]:
            if percent:
                refuse_with_traffic(what, endpoint, facts, revision)
                return facts.model_copy(update={"mirror": (revision, percent)}), dict(endpoint.traffic_split)
            is_mirrored = facts.mirror is not None and facts.mirror[0] == revision
            return facts.model_copy(update={"mirror": None}) if is_mirrored else facts, dict(endpoint.traffic_split)

        after = self._deployments.primary.change(what, decide, expect)
        self._deployments.tell(facts_of(after))
        return self._status(after)

    def retire(self, revision: str, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`. Takes minutes; the shadow goes with it, and that of a revision with all of the traffic."""
        what = f"retiring {revision} of {self._name} on Vertex AI"
        before = self._deployments.primary.read()
        check_generation(what, before, expect)
        if before is None:
            return self.status()
        facts = facts_of(before)
        if revision in facts.revisions or deployed_for(before, facts, revision) is not None:
            self._deployments.take_away(what, revision, expect)
        for name in facts_of(self._deployments.existing(what)).revisions:
            if not self._deployments.is_candidate(name):
                self._deployments.drop_shadow(what, name)
        return self.status()

    def write_record(self, record: str, *, expect: str | None = None) -> EndpointStatus:
        """See `Endpoint`."""
        what = f"writing the record of {self._name} on Vertex AI"
        if len(record.encode()) > _RECORD_BYTES:
            raise InputError(f"{what}: it has {len(record.encode())} bytes, expected 32 KiB at most")
        check_generation(what, self._deployments.primary.read(), expect)
        self._deployments.ensure(self._deployments.primary)
        after = self._deployments.primary.change(
            what,
            lambda facts, endpoint: (facts.model_copy(update={"record": record}), dict(endpoint.traffic_split)),
            expect,
        )
        return self._status(after)

    def predict(self, revision: str, rows: Sequence[Mapping[str, Any]]) -> Answer:
        """See `Endpoint`. Asks the shadow endpoint, or the Endpoint itself where the revision has all of its traffic.

        Raises:
            InputError: The revision is not there.
        """
        what = f"asking {revision} of {self._name} on Vertex AI"
        endpoint = self._deployments.existing(what)
        facts = facts_of(endpoint)
        deployed = deployed_for(endpoint, facts, revision)
        if deployed is None:
            raise self._deployments.unknown(what, revision, facts)
        known = facts.revisions.get(revision)
        if endpoint.traffic_split.get(deployed.id, 0) == ALL:
            resource = self._deployments.primary
        elif known is not None and known.shadow:
            resource = self._deployments.resource(revision)
        else:
            raise UnsupportedError(
                f"{what}: Vertex AI lets nobody ask one of several deployed models, and this one has not all of the "
                f"traffic; {_SET_CONTROL}"
            )
        body = json_bytes({"instances": [dict(row) for row in rows]})
        return self._vertex.post(self._vertex.url(resource.name, "rawPredict"), body, _PREDICT_SECONDS)

    def windows(self, since: float, until: float) -> dict[str, Window]:
        """See `Endpoint`.

        Requests, errors and latency come from Cloud Monitoring; predictions and features from the prediction log, where
        `endpoint.log.uri` names one. What reached a shadow endpoint counts as mirrored.
        """
        endpoint = self._deployments.primary.read()
        if endpoint is None:
            return {}
        facts = facts_of(endpoint)
        revisions = {status.id for status in self._revisions(endpoint, facts)}
        found = {name: Window(revision=name, since=since, until=until) for name in [*revisions, *facts.gone.values()]}
        places = {one.id: one.display_name for one in endpoint.deployed_models} | deployed_ids(facts)
        shadows = {endpoint_id(self._name, self._environment, name): name for name in found}
        counted = read_counts(self._monitoring, [self._deployments.primary.id, *shadows], since, until)
        for (place, deployed), counts in counted.items():
            if (name := places.get(deployed, "")) in found:
                found[name] = found[name].plus(_window(name, since, until, counts, is_shadow=place in shadows))
        found = {name: one for name, one in found.items() if name in revisions or one.requests}
        log = self._settings.endpoint.log
        return _with_log(found, log.uri, since, until) if log.uri and log.share else found

    @property
    def lag_seconds(self) -> float:
        """How old the newest of Cloud Monitoring's points are at most, as it says itself."""
        return self._lag

    def stop(self) -> EndpointStatus:
        """Deletes the Endpoint with all that is deployed, and the shadows; what is in the registry stays."""
        endpoint = self._deployments.primary.read()
        before = self._status(endpoint)
        if endpoint is not None:
            self._deployments.tell(Facts())
            for name in facts_of(endpoint).revisions:
                self._deployments.resource(name).delete(self._deployments.seconds)
            self._deployments.primary.delete(self._deployments.seconds)
        return before

    # How it is done.

    @cached_property
    def _monitoring(self) -> Monitoring:
        return Monitoring(self._settings.vertex)

    @cached_property
    def _lag(self) -> float:
        return read_lag(self._monitoring)

    def _status(self, endpoint: VertexResource | None) -> EndpointStatus:
        if endpoint is None:
            return EndpointStatus(name=self._name)
        facts = facts_of(endpoint)
        return EndpointStatus(
            name=self._name,
            url=self._vertex.url(self._deployments.primary.name, "predict") if endpoint.traffic_split else "",
            revisions=tuple(self._revisions(endpoint, facts)),
            generation=generation_of(endpoint),
            record=facts.record,
            edges=tuple(facts.edges),
        )

    def _revisions(self, endpoint: VertexResource, facts: Facts) -> list[RevisionStatus]:
        mirrored = self._mirrored(facts)
        own = set(deployed_ids(facts))
        strangers = [one.display_name or one.id for one in endpoint.deployed_models if one.id not in own]
        found = []
        for name in dict.fromkeys([*facts.revisions, *strangers]):
            known, deployed = facts.revisions.get(name), deployed_for(endpoint, facts, name)
            reason = unready(deployed, known)
            found.append(
                RevisionStatus(
                    id=name,
                    version=known.version if known else "",
                    digest=known.digest if known else "",
                    share=share_of(endpoint, facts, name),
                    ready=not reason,
                    mirror=mirrored.get(name, 0),
                    reason=reason,
                )
            )
        return found

    def _mirrored(self, facts: Facts) -> dict[str, int]:
        """Returns the revision that the servers were told last to mirror to, with its percent.

        So a controller that was killed before it told them is followed by one that does. Where the document cannot be
        read the facts count: a store that is out of reach must not stand in the way of a rollback.
        """
        if not self._deployments.control:
            return {}
        try:
            told = read_control(self._deployments.control).mirror
        except InputError:
            return dict([facts.mirror]) if facts.mirror else {}
        return {told.revision: told.percent} if told is not None else {}


def check_shares(what: str, shares: Mapping[str, int]) -> None:
    """Refuses shares that are no percents that add up to 100.

    Raises:
        InputError: They are not.
    """
    given = ", ".join(f"{name}: {percent}" for name, percent in shares.items()) or "none"
    if any(not 0 <= percent <= ALL for percent in shares.values()) or sum(shares.values()) != ALL:
        raise InputError(f"{what}: expected shares of 0 to 100 percent that add up to 100, found {given}")


def _window(revision: str, since: float, until: float, counts: Counts, *, is_shadow: bool) -> Window:
    mirrored = MirrorCounts(sent=counts.requests, failed=counts.errors + counts.refused)
    return Window(
        revision=revision,
        since=since,
        until=until,
        requests=counts.requests,
        errors=counts.errors,
        refused=counts.refused,
        latency=counts.latency,
        mirror=mirrored if is_shadow else MirrorCounts(),
    )


def _with_log(found: Mapping[str, Window], uri: str, since: float, until: float) -> dict[str, Window]:
    """Returns windows with predictions and features as the prediction log has them."""
    from shipway.endpoints.log_windows import log_windows

    logged = log_windows(uri, since, until)
    return {
        name: window.model_copy(update={"predictions": log.predictions, "features": log.features})
        if (log := logged.get(name)) is not None
        else window
        for name, window in found.items()
    }
