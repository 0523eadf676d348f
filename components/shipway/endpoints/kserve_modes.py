"""KServe's two ways of canaries.

raw (KServe 0.20 and newer, without Knative): `spec.canary` lists predictors with a percentage each, beside the one in
`spec.predictor`, which gets what is left. Each has a Deployment of its own, named by the predictor; so to make another
one `spec.predictor` restarts nothing. Sources: kserve/kserve pull requests 5672, 5912, 5984, and the controller's code.

serverless (Knative): one predictor, whose every change makes a Knative revision; `canaryTrafficPercent` goes to the
latest, the rest to the one that had all traffic before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from shipway.endpoints.kserve_objects import REVISION_LABEL, Object, scaled, unscaled
from shipway.endpoints.kserve_state import Edit, Snapshot, condition
from shipway.endpoints.protocol import UnsupportedError
from shipway.spec import EndpointSettings


class RawMode:
    """See the module. The revisions are named by their predictors.

    Args:
        settings: The endpoint's settings.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings

    def revisions(self, seen: Snapshot) -> list[str]:
        """See `Mode`."""
        return [found["name"] for found, _ in _predictors(seen)]

    def shares(self, seen: Snapshot) -> dict[str, int]:
        """See `Mode`."""
        return {found["name"]: percent if seen.ledger.opened else 0 for found, percent in _predictors(seen)}

    def ready(self, seen: Snapshot, revision: str) -> bool:
        """See `Mode`."""
        if not seen.observed:
            return False
        if seen.spec["predictor"].get("name") == revision:
            return condition(seen, "PredictorReady").get("status") == "True"
        return bool(_canary_status(seen, revision).get("ready"))

    def idle(self, seen: Snapshot, revision: str) -> bool:  # noqa: ARG002 - see `Mode`
        """See `Mode`: a Deployment without pods answers nobody."""
        return False

    def staged(self, seen: Snapshot, revision: str, predictor: Object) -> Edit:
        """See `Mode`."""
        found = _predictors(seen)
        if not found:
            return Edit(seen.ledger.model_copy(update={"opened": False}), self._spec([(predictor, 100)]))
        changed = [(predictor if one["name"] == revision else one, percent) for one, percent in found]
        if revision not in self.revisions(seen):
            changed.append((predictor, 0))
        return Edit(seen.ledger, self._spec(changed))

    def shifted(self, seen: Snapshot, shares: Mapping[str, int]) -> Edit:
        """See `Mode`: the stable predictor stays, unless it gets nothing."""
        found = [(one, shares.get(one["name"], 0)) for one, _ in _predictors(seen)]
        if not found[0][1]:
            found.sort(key=lambda entry: -entry[1])
        return Edit(seen.ledger.model_copy(update={"opened": True}), self._spec(found))

    def retired(self, seen: Snapshot, revision: str) -> Edit:
        """See `Mode`."""
        left = [(one, percent) for one, percent in _predictors(seen) if one["name"] != revision]
        return Edit(seen.ledger, self._spec(left) if left else None)

    def awaited(self, seen: Snapshot) -> str:
        """See `Mode`."""
        if not seen.observed:
            return "its controller has not looked at the change yet"
        for entry in seen.spec.get("canary") or []:
            name, percent = entry["predictor"]["name"], entry.get("trafficPercent", 0)
            told = _canary_status(seen, name)
            # KServe leaves a canary that is not ready out of the route, and gives the rest to the stable one.
            if percent and (told.get("trafficPercent", percent) != percent or not told.get("ready")):
                return f"it does not call {name} ready for its {percent} %"
        return ""

    def address(self, seen: Snapshot, revision: str) -> str:  # noqa: ARG002 - see `Mode`
        """See `Mode`: each predictor has a Service of its own."""
        return ""

    def _spec(self, found: Sequence[tuple[Object, int]]) -> Object:
        """Returns the spec with the first predictor as the stable one."""
        fewest = self.settings.endpoint.kserve.min_replicas
        (stable, _), *canaries = found
        spec: Object = {"predictor": scaled(stable, self.settings, added=fewest * len(canaries))}
        if canaries:
            # Without a number of its own a canary with 0 % has no pod. KServe allows it no autoscaling.
            spec["canary"] = [
                {"trafficPercent": percent, "predictor": {**unscaled(one), "minReplicas": fewest}}
                for one, percent in canaries
            ]
        return spec


class ServerlessMode:
    """See the module. Two revisions at most: the predictor's, and the one that KServe calls the previous.

    Args:
        settings: The endpoint's settings.
    """

    def __init__(self, settings: EndpointSettings) -> None:
        self.settings = settings

    def revisions(self, seen: Snapshot) -> list[str]:
        """See `Mode`."""
        latest, previous = _latest(seen), seen.ledger.previous
        if not latest:
            return []
        return [name for name in (previous, "" if latest == seen.ledger.gone else latest) if name]

    def shares(self, seen: Snapshot) -> dict[str, int]:
        """See `Mode`."""
        latest, percent = _latest(seen), self._percent(seen)
        return {
            name: (percent if name == latest else 100 - percent) if seen.ledger.opened else 0
            for name in self.revisions(seen)
        }

    def ready(self, seen: Snapshot, revision: str) -> bool:
        """See `Mode`: of the previous revision KServe tells nothing, and routes to it."""
        if revision != _latest(seen):
            return True
        told = _component(seen)
        created = told.get("latestCreatedRevision")
        return seen.observed and bool(created) and told.get("latestReadyRevision") == created

    def idle(self, seen: Snapshot, revision: str) -> bool:
        """See `Mode`: Knative starts a pod when a request comes."""
        return self.ready(seen, revision)

    def staged(self, seen: Snapshot, revision: str, predictor: Object) -> Edit:
        """See `Mode`."""
        spec: Object = {"predictor": _knative(predictor, self.settings)}
        there, latest = self.revisions(seen), _latest(seen)
        if not there:
            return Edit(seen.ledger.model_copy(update={"opened": False, "previous": "", "gone": ""}), spec)
        ledger = seen.ledger
        if latest == revision:
            spec["predictor"]["canaryTrafficPercent"] = self._percent(seen)
            return Edit(ledger.model_copy(update={"gone": ""}), spec)
        if len(there) > 1 or revision in there:
            raise UnsupportedError(
                f"{revision}: KServe serves two revisions at most in its serverless mode, and has "
                f"{' and '.join(there)}; retire one first, set rollout.baseline to live, or endpoint.kserve.mode to raw"
            )
        if not ledger.previous:
            ledger = ledger.model_copy(update={"previous": latest})
        spec["predictor"]["canaryTrafficPercent"] = 0
        return Edit(ledger.model_copy(update={"gone": ""}), spec)

    def shifted(self, seen: Snapshot, shares: Mapping[str, int]) -> Edit:
        """See `Mode`."""
        predictor = {**seen.spec["predictor"], "canaryTrafficPercent": shares.get(_latest(seen), 0)}
        return Edit(seen.ledger.model_copy(update={"opened": True}), {**seen.spec, "predictor": predictor})

    def retired(self, seen: Snapshot, revision: str) -> Edit:
        """See `Mode`: Knative ends the pods of the previous one; a latest one stays without traffic until the next."""
        if len(self.revisions(seen)) == 1:
            return Edit(seen.ledger.model_copy(update={"previous": "", "gone": ""}), None)
        if revision == seen.ledger.previous:
            return Edit(seen.ledger.model_copy(update={"previous": ""}))
        return Edit(seen.ledger.model_copy(update={"gone": revision}))

    def awaited(self, seen: Snapshot) -> str:
        """See `Mode`."""
        if not seen.observed:
            return "its controller has not looked at the change yet"
        percent, told = self._percent(seen), _component(seen)
        traffic: Sequence[Object] = told.get("traffic") or []
        latest = sum(int(one.get("percent") or 0) for one in traffic if one.get("latestRevision"))
        # After a full switch KServe takes two looks to find its way back: first it calls the latest one the previous.
        others = {one.get("revisionName") for one in traffic if not one.get("latestRevision") and one.get("percent")}
        if traffic and (latest != percent or told.get("latestCreatedRevision") in others):
            return f"Knative routes {latest} % to the latest revision, {percent} % are wanted"
        return ""

    def address(self, seen: Snapshot, revision: str) -> str:
        """See `Mode`: the URL of the tag."""
        tag = "latest" if revision == _latest(seen) else "prev"
        traffic: Sequence[Object] = _component(seen).get("traffic") or []
        found = next((str(one.get("url") or "") for one in traffic if one.get("tag") == tag), "")
        if not found:
            raise UnsupportedError(
                f"{revision}: Knative gives it no URL of its own (tag {tag}); KServe needs its annotation "
                "serving.kserve.io/enable-tag-routing and traffic tags allowed"
            )
        return found.rstrip("/")

    def _percent(self, seen: Snapshot) -> int:
        found = (seen.spec.get("predictor") or {}).get("canaryTrafficPercent")
        return 100 if found is None else int(found)


def _predictors(seen: Snapshot) -> list[tuple[Object, int]]:
    """Returns the predictors with their percentages, the stable one first."""
    if not seen.spec:
        return []
    canaries = [(entry["predictor"], int(entry.get("trafficPercent") or 0)) for entry in seen.spec.get("canary") or []]
    return [(seen.spec["predictor"], 100 - sum(percent for _, percent in canaries)), *canaries]


def _canary_status(seen: Snapshot, revision: str) -> Object:
    found: Sequence[Object] = seen.status.get("canaryStatuses") or []
    return next((one for one in found if one.get("name") == revision), {})


def _latest(seen: Snapshot) -> str:
    labels: Mapping[str, str] = (seen.spec.get("predictor") or {}).get("labels") or {}
    return labels.get(REVISION_LABEL, "")


def _component(seen: Snapshot) -> Object:
    found: Object = (seen.status.get("components") or {}).get("predictor") or {}
    return found


def _knative(predictor: Object, settings: EndpointSettings) -> Object:
    """Returns a predictor as Knative takes it: named by the InferenceService alone, scaled by Knative's own measure."""
    dropped = ("name", "terminationGracePeriodSeconds", "topologySpreadConstraints", "scaleMetric", "scaleTarget")
    return {name: value for name, value in scaled(predictor, settings).items() if name not in dropped}
