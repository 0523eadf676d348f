"""Who may talk to whom: reads NetworkPolicies as a cluster does."""

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, field

from manifests_build import PREDICTOR_LABELS, Object, label, pods, selects


@dataclass(frozen=True)
class Place:
    """One end of a connection.

    Attributes:
        name: How the tests call it.
        namespace: Its namespace; "" for an address outside of the cluster.
        labels: Its pod labels.
        namespace_labels: Its namespace's labels.
        address: Its address, when it is no pod.
    """

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    namespace_labels: dict[str, str] = field(default_factory=dict)
    address: str = ""


@dataclass(frozen=True)
class Door:
    """A port of a place."""

    place: str
    port: int
    protocol: str = "TCP"

    def __str__(self) -> str:
        return f"{self.place}:{self.port}" + ("" if self.protocol == "TCP" else f"/{self.protocol}")


STEP_LABELS = {"pipelines.kubeflow.org/v2_component": "true", "workflows.argoproj.io/workflow": "flights-training-x"}


_GATEWAY = {"shipway.dev/calls-models": "true", "shipway.dev/calls-trigger": "true"}


def _elsewhere(name: str, namespace: str, labels: dict[str, str], **namespace_labels: str) -> Place:
    named = {"kubernetes.io/metadata.name": namespace, **namespace_labels}
    return Place(name, namespace, labels, named)


def places(objects: list[Object]) -> dict[str, Place]:
    """Returns every place that there is: our pods, those that KFP and KServe make here, and the world around."""
    space = next(o for o in objects if o["kind"] == "Namespace")["metadata"]
    labels = {"kubernetes.io/metadata.name": space["name"], **space.get("labels", {})}
    ours = [
        Place(
            "predictor" if PREDICTOR_LABELS.items() <= pod.labels.items() else pod.owner.partition("/")[2],
            space["name"],
            pod.labels,
            labels,
        )
        for pod in pods(objects)
    ]
    around = [
        Place("step", space["name"], STEP_LABELS, labels),
        Place("kfp-artifacts", space["name"], {"app": "ml-pipeline-ui-artifact"}, labels),
        Place("newcomer", space["name"], {"app": "something-new"}, labels),
        _elsewhere("dns", "kube-system", {"k8s-app": "kube-dns"}),
        _elsewhere("node-agent", "kube-system", {"k8s-app": "node-agent"}),
        _elsewhere("kfp-api", "kubeflow", {"app": "ml-pipeline"}),
        _elsewhere("kfp-metadata", "kubeflow", {"component": "metadata-grpc-server"}),
        _elsewhere("kfp-store", "kubeflow", {"app": "seaweedfs"}),
        _elsewhere("kfp-ui", "kubeflow", {"app": "ml-pipeline-ui"}),
        _elsewhere("kfp-step", "kubeflow", STEP_LABELS),
        _elsewhere("gateway", "istio-system", {"app": "gateway"}, **_GATEWAY),
        _elsewhere("alertmanager", "monitoring", {"app": "alertmanager"}, **{"shipway.dev/calls-trigger": "true"}),
        _elsewhere("prometheus", "monitoring", {"app": "prometheus"}, **{"shipway.dev/scrapes-models": "true"}),
        # Labels are free to claim in another namespace.
        _elsewhere("impostor", "default", {**STEP_LABELS, "app.kubernetes.io/name": "mlflow"}),
        Place("internet", address="52.216.0.10"),
        Place("kubernetes-api", address="10.96.0.1"),
        Place("node-dns", address="169.254.20.10"),
        Place("node-metadata", address="169.254.169.254"),
        Place("gke-metadata", address="169.254.169.252"),
        Place("eks-agent", address="169.254.170.23"),
    ]
    return {place.name: place for place in [*ours, *around]}


def _peers_match(peers: list[Object] | None, place: Place, namespace: str) -> bool:
    if not peers:
        return True  # no list is everybody
    return any(_peer_matches(peer, place, namespace) for peer in peers)


def _peer_matches(peer: Object, place: Place, namespace: str) -> bool:
    if "ipBlock" in peer:
        # Pods have addresses, too, but clusters need not see them here: as documented, this is for outside addresses.
        if not place.address:
            return False
        address, block = ipaddress.ip_address(place.address), peer["ipBlock"]
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(part) for part in block.get("except", [])
        )
    if place.address:
        return False
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], place.namespace_labels):
            return False
    elif place.namespace != namespace:
        return False
    return selects(peer.get("podSelector", {}), place.labels)


def _port_matches(ports: list[Object] | None, door: Door) -> bool:
    if not ports:
        return True
    for port in ports:
        if isinstance(port.get("port"), str) or "endPort" in port:
            raise ValueError(f"only single port numbers are understood, found {port}")
        if port.get("protocol", "TCP") == door.protocol and port.get("port") in (None, door.port):
            return True
    return False


def _open(policies: list[Object], direction: str, mine: Place, other: Place, door: Door) -> bool:
    kind, peers = ("Ingress", "from") if direction == "ingress" else ("Egress", "to")
    isolating = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == mine.namespace
        and kind in policy["spec"]["policyTypes"]
        and selects(policy["spec"]["podSelector"], mine.labels)
    ]
    if not isolating:
        return True
    return any(
        _peers_match(rule.get(peers), other, mine.namespace) and _port_matches(rule.get("ports"), door)
        for spec in isolating
        for rule in spec.get(direction, [])
    )


def _doors() -> Iterator[Door]:
    for port in (3000, 5000, 5432, 6443, 80, 443, 8080, 8090, 8333, 8887, 8888, 988, 9000, 9090):
        yield Door("", port)
    yield Door("", 53)
    yield Door("", 53, "UDP")


def connections(objects: list[Object]) -> set[str]:
    """Returns every connection that is allowed, as `mlflow -> postgres:5432`, from or to a pod of ours."""
    everywhere = places(objects)
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    space = next(o for o in objects if o["kind"] == "Namespace")["metadata"]["name"]
    found = set()
    for source in everywhere.values():
        for target in everywhere.values():
            if space not in (source.namespace, target.namespace):
                continue
            for door in _doors():
                goes = source.namespace != space or _open(policies, "egress", source, target, door)
                comes = target.namespace != space or _open(policies, "ingress", target, source, door)
                if goes and comes:
                    found.add(f"{source.name} -> {Door(target.name, door.port, door.protocol)}")
    return found


def idle(objects: list[Object]) -> list[str]:
    """Returns complaints about policies, or peers in them, that are about nobody: a slip in a label."""
    everywhere = places(objects)
    found = []
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        namespace, spec = policy["metadata"]["namespace"], policy["spec"]
        here = [place for place in everywhere.values() if place.namespace == namespace]
        if not any(selects(spec["podSelector"], place.labels) for place in here):
            found.append(f"{label(policy)}: is about no pod")
        for direction, peers in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(direction, []):
                if not rule.get(peers) or not rule.get("ports"):
                    found.append(f"{label(policy)}: {direction} for everybody or every port")
                for peer in rule.get(peers) or []:
                    known = any(_peer_matches(peer, place, namespace) for place in everywhere.values())
                    if "ipBlock" not in peer and not known:
                        found.append(f"{label(policy)}: {direction} {peer} is nobody")
    return found


def default_deny(objects: list[Object]) -> list[str]:
    """Returns complaints unless a policy isolates every pod in both directions and allows nothing."""
    for policy in (o for o in objects if o["kind"] == "NetworkPolicy"):
        spec = policy["spec"]
        both = set(spec["policyTypes"]) == {"Ingress", "Egress"}
        if spec["podSelector"] == {} and both and not spec.get("ingress") and not spec.get("egress"):
            return []
    return ["no NetworkPolicy denies by default"]


def unreachable(objects: list[Object]) -> list[str]:
    """Returns complaints about services whose pods nobody may reach on the service's port."""
    found, open_doors = [], connections(objects)
    for service in (o for o in objects if o["kind"] == "Service"):
        pod = next(p for p in pods(objects) if selects({"matchLabels": service["spec"]["selector"]}, p.labels))
        numbers = {p.get("name"): p["containerPort"] for c in pod.spec["containers"] for p in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            door = f"-> {pod.owner.partition('/')[2]}:{numbers.get(target, target)}"
            if not any(connection.endswith(door) for connection in open_doors):
                found.append(f"{label(service)}: nobody may reach {door.removeprefix('-> ')}")
    return found
