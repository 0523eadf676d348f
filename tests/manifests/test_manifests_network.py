"""The network, evaluated: what is wanted is allowed, and nothing else is."""

import pytest
from manifests_build import COMPONENTS, INSTALLATIONS, OPTIONAL, Object, installation, named
from manifests_network import connections, default_deny, idle, unreachable

POSTGRES = "mlflow -> postgres:5432"


def dns(*sources: str) -> set[str]:
    return {f"{s} -> {place}:53{p}" for s in sources for place in ("dns", "node-dns") for p in ("", "/UDP")}


# Pods of an overlay as it is. KFP may start `kfp-artifacts`; `newcomer` is any pod of somebody else's.
OURS = ("mlflow", "postgres", "predictor", "trigger", "step", "kfp-artifacts", "newcomer")
BASE = dns(*OURS) | {
    POSTGRES,
    "mlflow -> internet:443",
    "predictor -> internet:443",
    "step -> mlflow:5000",
    "step -> predictor:8080",
    "step -> internet:443",
    "step -> kubernetes-api:443",
    "step -> kubernetes-api:6443",
    "step -> kfp-api:8887",
    "step -> kfp-api:8888",
    "step -> kfp-metadata:8080",
    "step -> kfp-store:8333",
    "step -> kfp-store:9000",
    "gateway -> predictor:8080",
    "predictor -> predictor:8080",
    "prometheus -> predictor:8080",
    "step -> prometheus:9090",
    "step -> trigger:8090",
    "gateway -> trigger:8090",
    "alertmanager -> trigger:8090",
    "prometheus -> trigger:8090",
    "trigger -> mlflow:5000",
    "trigger -> postgres:5432",
    "trigger -> kfp-api:8888",
    "trigger -> internet:443",
}
WANTED = {
    "production": BASE,
    "dev": BASE | {f"{pod} -> kfp-store:{port}" for pod in ("mlflow", "predictor", "trigger") for port in (8333, 9000)},
}
ADDED = {
    "checkpoints": dns("shipway-work-owner"),
    "eks": {f"{pod} -> eks-agent:80" for pod in OURS if pod != "postgres"},
    "external-secrets": set(),
    "gke": {
        f"{pod} -> {door}" for pod in OURS if pod != "postgres" for door in ("node-metadata:80", "gke-metadata:988")
    },
    "kfp-multi-user": {
        "kfp-ui -> kfp-artifacts:3000",
        "kfp-artifacts -> kfp-store:8333",
        "kfp-artifacts -> kfp-store:9000",
        "kfp-artifacts -> internet:443",
        "kfp-artifacts -> kubernetes-api:443",
    },
    "kfp-standalone": {"kfp-step -> mlflow:5000", "kfp-step -> predictor:8080", "kfp-step -> trigger:8090"},
    "monitoring": set(),
    "trigger-actions": {f"trigger -> kubernetes-api:{port}" for port in (443, 6443)},
    "trigger-ingress": set(),
}


@pytest.mark.parametrize("overlay", sorted(WANTED))
def test_exactly_the_wanted_connections_are_open(overlay: str) -> None:
    assert connections(installation(overlay)) == WANTED[overlay]


def test_every_component_is_in_an_overlay_or_told_here() -> None:
    assert {*ADDED, "trigger"} == set(COMPONENTS)


@pytest.mark.parametrize(
    ("overlay", "component"), [(overlay, component) for overlay in sorted(WANTED) for component in OPTIONAL[overlay]]
)
def test_a_component_opens_exactly_what_it_needs(overlay: str, component: str) -> None:
    assert connections(installation(f"{overlay}+{component}")) == WANTED[overlay] | ADDED[component]


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_policies_are_sound(name: str) -> None:
    objects = installation(name)
    assert [*default_deny(objects), *idle(objects), *unreachable(objects)] == []


@pytest.fixture
def objects() -> list[Object]:
    return installation("production")


def policy(objects: list[Object], name: str) -> Object:
    return next(o for o in objects if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == name)["spec"]


def test_without_the_default_everything_is_open(objects: list[Object]) -> None:
    objects = [o for o in objects if o["metadata"]["name"] != "default-deny"]
    assert default_deny(objects)
    assert "impostor -> newcomer:443" in connections(objects)
    # What a policy of its own isolates, stays shut.
    assert "impostor -> postgres:5432" not in connections(objects)


def test_a_default_that_denies_one_way_only_is_none(objects: list[Object]) -> None:
    policy(objects, "default-deny")["policyTypes"] = ["Ingress"]
    assert default_deny(objects)
    # Only the policy on DNS, which is about every pod, still isolates a pod that has no policy of its own.
    objects = [o for o in objects if o["metadata"]["name"] != "allow-dns"]
    assert "newcomer -> internet:443" in connections(objects)


def test_a_default_with_a_hole_is_none(objects: list[Object]) -> None:
    policy(objects, "default-deny")["ingress"] = [{}]
    assert default_deny(objects)
    assert "impostor -> postgres:5432" in connections(objects)


def test_an_empty_selector_lets_the_whole_namespace_in(objects: list[Object]) -> None:
    policy(objects, "postgres")["ingress"][0]["from"] = [{"podSelector": {}}]
    # The other end denies by itself: the newcomer may not even call.
    assert connections(objects) == connections(installation("production"))
    policy(objects, "pipeline")["egress"].append({"to": [{"podSelector": {}}]})
    assert "step -> postgres:5432" in connections(objects)
    assert idle(objects) == ["NetworkPolicy/pipeline: egress for everybody or every port"]


def test_a_namespace_selector_alone_lets_impostors_in(objects: list[Object]) -> None:
    policy(objects, "mlflow")["ingress"][0]["from"] = [{"namespaceSelector": {}}]
    assert "impostor -> mlflow:5000" in connections(objects)


def test_a_slip_in_a_label_is_seen(objects: list[Object]) -> None:
    policy(objects, "postgres")["podSelector"] = {"matchLabels": {"app.kubernetes.io/name": "postgresql"}}
    assert idle(objects) == ["NetworkPolicy/postgres: is about no pod"]
    assert unreachable(objects) == ["Service/postgres: nobody may reach postgres:5432"]
    assert POSTGRES not in connections(objects)


def test_a_slip_in_a_peer_is_seen(objects: list[Object]) -> None:
    policy(objects, "mlflow")["ingress"][0]["from"] = [{"podSelector": {"matchLabels": {"app": "mflow"}}}]
    assert len(idle(objects)) == 1
    assert unreachable(objects) == ["Service/mlflow: nobody may reach mlflow:5000"]


def test_a_slip_in_a_port_is_seen(objects: list[Object]) -> None:
    policy(objects, "postgres")["ingress"][0]["ports"][0]["port"] = 5433
    assert unreachable(objects) == ["Service/postgres: nobody may reach postgres:5432"]


def test_a_pod_that_loses_its_label_loses_its_connections(objects: list[Object]) -> None:
    mlflow = named(objects, "Deployment", "mlflow")["spec"]["template"]["metadata"]
    mlflow["labels"]["app.kubernetes.io/name"] = "tracking"
    assert POSTGRES not in connections(objects)


def test_the_nodes_credentials_are_open_once_the_exception_is_gone(objects: list[Object]) -> None:
    egress = policy(objects, "pipeline")["egress"]
    outside = next(rule for rule in egress if "except" in rule["to"][0].get("ipBlock", {}))
    del outside["to"][0]["ipBlock"]["except"]
    outside["ports"][0]["port"] = 80
    assert "step -> node-metadata:80" in connections(objects)


def test_a_named_port_is_not_guessed_at(objects: list[Object]) -> None:
    policy(objects, "postgres")["ingress"][0]["ports"][0]["port"] = "postgres"
    with pytest.raises(ValueError, match="only single port numbers"):
        connections(objects)
