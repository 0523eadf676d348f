"""Every policy holds in every build, and no check is one that cannot fail."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml
from manifests_build import EXAMPLES, INSTALLATIONS, ROOT, WHOLE, Object, example, installation, named, pods
from manifests_policy import CHECKS, PROVIDED_SECRETS, quantity

from shipway.spec.watch import EventSink, GitHubIssues, NotifySection

ALL = WHOLE["production"]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", INSTALLATIONS)
def test_policy_holds(name: str, check: str) -> None:
    assert CHECKS[check](installation(name)) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_hold_no_secrets_and_no_pods_of_their_own(name: str) -> None:
    objects = example(name)
    assert CHECKS["secrets"](objects) == []
    assert list(pods(objects)) == []


def test_every_pod_is_looked_at() -> None:
    assert {pod.owner for pod in pods(installation(ALL))} == {
        "Deployment/mlflow",
        "Deployment/trigger",
        "Job/shipway-work-owner",
        "ServingRuntime/shipway-server",
        "StatefulSet/postgres",
    }


def test_the_docs_name_every_secret_that_must_exist() -> None:
    text = (ROOT.parent / "docs" / "manifests.md").read_text()
    assert [name for name in sorted(PROVIDED_SECRETS) if f"`{name}`" not in text] == []


def test_external_secrets_make_each_secret_with_its_keys() -> None:
    objects = installation("production+external-secrets")
    made = {
        o["spec"]["target"]["name"]: {entry["secretKey"] for entry in o["spec"]["data"]}
        for o in objects
        if o["kind"] == "ExternalSecret"
    }
    used: dict[str, set[str]] = {"shipway-object-store-reader": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}}
    for pod in pods(objects):
        for volume in pod.spec.get("volumes", []):
            if "items" in volume.get("secret", {}):
                used.setdefault(volume["secret"]["secretName"], set()).update(
                    item["key"] for item in volume["secret"]["items"]
                )
        for container in [*pod.spec["containers"], *pod.spec.get("initContainers", [])]:
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                if reference:
                    used.setdefault(reference["name"], set()).add(reference["key"])
    # The trigger service takes these as a whole: what its routes name, and what the spec's section notify names.
    used["shipway-trigger"] = {"SHIPWAY_EVENTS_TOKEN", "ALERTMANAGER_TOKEN", "SHIPWAY_READ_TOKEN"}
    used["shipway-notify"] = set(
        NotifySection(
            github=GitHubIssues(repository="a/b"), events=EventSink(url="http://trigger:8090/hooks/shipway")
        ).variables
    )
    assert made == used


def test_the_trigger_may_change_what_is_served_only_where_that_is_asked_for() -> None:
    def bound(name: str) -> set[str]:
        return {
            subject["name"]
            for thing in installation(name)
            if thing["kind"] == "RoleBinding" and thing["roleRef"]["name"] == "shipway-deployer"
            for subject in thing["subjects"]
        }

    assert bound("production") == bound("dev") == {"shipway-deployer"}
    assert bound("production+trigger-actions") == {"shipway-deployer", "shipway-trigger"}


@pytest.mark.parametrize("name", ["mlflow", "trigger"])
def test_production_spreads_its_servers(name: str) -> None:
    spec = named(installation("production"), "Deployment", name)["spec"]
    assert spec["replicas"] > 1
    pod = spec["template"]["spec"]
    assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert pod["topologySpreadConstraints"]
    assert spec["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


@pytest.mark.parametrize("name", ["dev", "production", ALL])
def test_the_quota_has_room_for_what_is_always_there(name: str) -> None:
    objects = installation(name)
    hard = named(objects, "ResourceQuota", "shipway")["spec"]["hard"]
    for key, (part, resource) in {
        "requests.cpu": ("requests", "cpu"),
        "requests.memory": ("requests", "memory"),
        "limits.memory": ("limits", "memory"),
    }.items():
        needed = sum(
            quantity(container["resources"][part][resource])
            for pod in pods(objects)
            for container in pod.spec["containers"]
        )
        # Twice, for a rollout and replicas; and half of the quota is for pipelines.
        assert needed * 4 < quantity(hard[key]), key


def test_the_inference_service_fits_the_runtime() -> None:
    (service,) = example("inference-service")
    objects = installation("production")
    runtime = named(objects, "ServingRuntime", "shipway-server")["spec"]
    predictor = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == "shipway-server"
    assert predictor["model"]["modelFormat"] == {
        key: runtime["supportedModelFormats"][0][key] for key in ("name", "version")
    }
    assert predictor["model"]["protocolVersion"] in runtime["protocolVersions"]
    assert named(objects, "ServiceAccount", predictor["serviceAccountName"])
    settings = named(objects, "ConfigMap", "mlflow-settings")["data"]
    assert predictor["model"]["storageUri"].startswith(settings["MLFLOW_ARTIFACTS_DESTINATION"] + "/")
    # The pod, as KServe puts it together: the policies on tokens hold of it, too.
    pod = {
        "kind": "Pod",
        "apiVersion": "v1",
        "metadata": {"name": "flights", "namespace": "shipway", "labels": {}},
        "spec": {**runtime, **{key: value for key, value in predictor.items() if key != "model"}},
    }
    for check in ("users", "privileges", "host", "resources", "probes", "tokens", "images"):
        assert CHECKS[check]([*objects, pod]) == [], check


def test_gpu_pools_of_both_clouds_are_told_apart_by_one_label() -> None:
    labels = [o["spec"]["nodeConfig"]["labels"] for o in example("gpu-gke")]
    labels += [o["spec"]["template"]["metadata"]["labels"] for o in example("gpu-eks") if o["kind"] == "NodePool"]
    assert labels == [{"shipway.dev/pool": "gpu"}] * 3
    text = (ROOT.parent / "docs" / "manifests.md").read_text()
    assert "shipway.dev/pool: gpu" in text


def test_karpenters_pool_names_its_class() -> None:
    objects = example("gpu-eks")
    reference = named(objects, "NodePool", "shipway-gpu")["spec"]["template"]["spec"]["nodeClassRef"]
    node_class = named(objects, "EC2NodeClass", reference["name"])
    assert reference["kind"] == "EC2NodeClass"
    assert node_class["apiVersion"].startswith(f"{reference['group']}/")


# --- Each policy broken on purpose ------------------------------------------------------------------------------------


def container(objects: list[Object], kind: str = "Deployment", name: str = "mlflow") -> Object:
    spec = named(objects, kind, name)["spec"]
    return (spec if kind == "ServingRuntime" else spec["template"]["spec"])["containers"][0]


def pod(objects: list[Object], kind: str = "Deployment", name: str = "mlflow") -> Object:
    return named(objects, kind, name)["spec"]["template"]["spec"]


def hooks(objects: list[Object]) -> Object:
    path: Object = named(objects, "Ingress", "trigger")["spec"]["rules"][0]["http"]["paths"][0]
    return path


def role(objects: list[Object], name: str, **rule: Any) -> None:
    named(objects, "Role", name)["rules"].append({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"], **rule})


def add(objects: list[Object], kind: str, name: str = "added", **fields: Any) -> None:
    objects.append({"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "shipway"}, **fields})


def put(thing: Object, *path: Any) -> None:
    *way, last, value = path
    for step in way:
        thing = thing[step]
    if value is None:
        del thing[last]
    else:
        thing[last] = value


BREAKS: dict[str, tuple[str, Callable[[list[Object]], object], str]] = {
    "latest": ("images", lambda o: put(container(o), "image", "shipway/components:latest"), "no exact tag"),
    "no tag": ("images", lambda o: put(container(o), "image", "shipway/components"), "no exact tag"),
    "port is no tag": ("images", lambda o: put(container(o), "image", "host:5000/components"), "no exact tag"),
    "moving tag": ("images", lambda o: put(container(o), "image", "postgres:bookworm"), "no exact tag"),
    "bad digest": ("images", lambda o: put(container(o), "image", "a@sha256:12"), "malformed digest"),
    "runtime's tag": (
        "images",
        lambda o: put(container(o, "ServingRuntime", "shipway-server"), "image", "shipway/server:latest"),
        "ServingRuntime/shipway-server",
    ),
    "init container": (
        "images",
        lambda o: put(pod(o), "initContainers", [{"name": "i", "image": "busybox"}]),
        "Deployment/mlflow: i",
    ),
    "always pull": ("images", lambda o: put(container(o), "imagePullPolicy", "Always"), "imagePullPolicy"),
    "root": ("users", lambda o: put(pod(o), "securityContext", "runAsUser", 0), "runAsUser"),
    "root group": ("users", lambda o: put(pod(o), "securityContext", "runAsGroup", 0), "runAsGroup"),
    "maybe root": ("users", lambda o: put(pod(o), "securityContext", "runAsNonRoot", None), "runAsNonRoot"),
    "container overrides": ("users", lambda o: put(container(o), "securityContext", "runAsUser", 0), "runAsUser"),
    "seccomp": (
        "users",
        lambda o: put(pod(o), "securityContext", "seccompProfile", {"type": "Unconfined"}),
        "seccompProfile",
    ),
    "privileged": ("privileges", lambda o: put(container(o), "securityContext", "privileged", True), "privileged"),
    "escalation": (
        "privileges",
        lambda o: put(container(o), "securityContext", "allowPrivilegeEscalation", None),
        "allowPrivilegeEscalation",
    ),
    "capability": (
        "privileges",
        lambda o: put(container(o), "securityContext", "capabilities", {"drop": ["ALL"], "add": ["NET_ADMIN"]}),
        "capabilities",
    ),
    "few dropped": (
        "privileges",
        lambda o: put(container(o), "securityContext", "capabilities", "drop", ["CHOWN"]),
        "capabilities",
    ),
    "writable root": (
        "privileges",
        lambda o: put(container(o, "StatefulSet", "postgres"), "securityContext", "readOnlyRootFilesystem", False),
        "StatefulSet/postgres: postgres: readOnlyRootFilesystem",
    ),
    "proc": ("privileges", lambda o: put(container(o), "securityContext", "procMount", "Unmasked"), "procMount"),
    "host network": ("host", lambda o: put(pod(o), "hostNetwork", True), "hostNetwork"),
    "host pid": ("host", lambda o: put(pod(o), "hostPID", True), "hostPID"),
    "host path": (
        "host",
        lambda o: pod(o)["volumes"].append({"name": "root", "hostPath": {"path": "/"}}),
        "hostPath",
    ),
    "host port": ("host", lambda o: put(container(o), "ports", 0, "hostPort", 80), "hostPort"),
    "no memory limit": ("resources", lambda o: put(container(o), "resources", "limits", "memory", None), "memory"),
    "no cpu request": ("resources", lambda o: put(container(o), "resources", "requests", "cpu", None), "cpu"),
    "no resources": ("resources", lambda o: put(container(o), "resources", None), "no request or no limit"),
    "request over limit": (
        "resources",
        lambda o: put(container(o), "resources", "requests", "memory", "64Gi"),
        "is not within its limit",
    ),
    "endless disk": ("resources", lambda o: put(pod(o), "volumes", 0, "emptyDir", {}), "sizeLimit"),
    "disk over limit": (
        "resources",
        lambda o: put(pod(o), "volumes", 0, "emptyDir", "sizeLimit", "50Gi"),
        "ephemeral-storage",
    ),
    "no readiness": ("probes", lambda o: put(container(o), "readinessProbe", None), "no readinessProbe"),
    "probe's port": ("probes", lambda o: put(container(o), "livenessProbe", "httpGet", "port", 81), "asks port 81"),
    "pod's token": ("tokens", lambda o: put(pod(o), "automountServiceAccountToken", None), "automount"),
    "account's token": (
        "tokens",
        lambda o: put(named(o, "ServiceAccount", "default"), "automountServiceAccountToken", True),
        "ServiceAccount/default",
    ),
    "step without token": (
        "tokens",
        lambda o: put(named(o, "ServiceAccount", "shipway-pipeline"), "automountServiceAccountToken", False),
        "is not true",
    ),
    "service links": ("tokens", lambda o: put(pod(o), "enableServiceLinks", None), "enableServiceLinks"),
    "no account": ("tokens", lambda o: put(pod(o), "serviceAccountName", None), "no serviceAccountName"),
    "secret object": ("secrets", lambda o: add(o, "Secret", stringData={"password": "x"}), "a Secret with data"),
    "literal password": (
        "secrets",
        lambda o: container(o)["env"].append({"name": "PGPASSWORD", "value": "hunter2"}),
        "PGPASSWORD holds a literal secret",
    ),
    "password in an innocent name": (
        "secrets",
        lambda o: container(o)["env"].append({"name": "DATABASE", "value": "postgresql://me:hunter2@db/x"}),
        "DATABASE holds a literal secret",
    ),
    "file that is none": (
        "secrets",
        lambda o: container(o)["env"].append({"name": "PASSWORD_FILE", "value": "hunter2"}),
        "PASSWORD_FILE holds a literal secret",
    ),
    "password in a config map": (
        "secrets",
        lambda o: put(
            named(o, "ConfigMap", "mlflow-settings"),
            "data",
            "MLFLOW_BACKEND_STORE_URI",
            "postgresql+psycopg2://mlflow:hunter2@postgres/mlflow",
        ),
        "MLFLOW_BACKEND_STORE_URI looks like a secret",
    ),
    "key in a config map": (
        "secrets",
        lambda o: put(named(o, "ConfigMap", "shipway-settings"), "data", "AWS_SECRET_ACCESS_KEY", "x"),
        "AWS_SECRET_ACCESS_KEY looks like a secret",
    ),
    "password in an argument": (
        "secrets",
        lambda o: container(o)["args"].append("--token=abc"),
        "argument --token looks like a secret",
    ),
    "wildcard verb": ("rights", lambda o: role(o, "shipway-pipeline", verbs=["*"]), "a wildcard"),
    "wildcard resource": ("rights", lambda o: role(o, "shipway-deployer", resources=["*"]), "a wildcard"),
    "pod maker": ("rights", lambda o: role(o, "shipway-pipeline", verbs=["create"]), "may change pods"),
    "all secrets": ("rights", lambda o: role(o, "shipway-pipeline", resources=["secrets"]), "may read every one"),
    "giving rights": (
        "rights",
        lambda o: role(o, "shipway-deployer", apiGroups=["rbac.authorization.k8s.io"], resources=["roles"]),
        "may give rights away",
    ),
    "second deployer": (
        "rights",
        lambda o: role(
            o,
            "shipway-pipeline",
            apiGroups=["serving.kserve.io"],
            resources=["inferenceservices"],
            verbs=["patch"],
        ),
        "others than deployers",
    ),
    "bound to more": (
        "rights",
        lambda o: named(o, "RoleBinding", "shipway-deployer")["subjects"].append(
            {"kind": "ServiceAccount", "name": "shipway-pipeline", "namespace": "shipway"}
        ),
        "others than deployers",
    ),
    "bound to nobody known": (
        "rights",
        lambda o: put(named(o, "RoleBinding", "shipway-deployer"), "subjects", 0, "name", "nobody"),
        "no ServiceAccount nobody here",
    ),
    "bound elsewhere": (
        "rights",
        lambda o: put(named(o, "RoleBinding", "shipway-deployer"), "subjects", 0, "namespace", "default"),
        "of another namespace",
    ),
    "bound to a cluster role": (
        "rights",
        lambda o: put(named(o, "RoleBinding", "shipway-deployer"), "roleRef", {"kind": "ClusterRole", "name": "admin"}),
        "no Role admin here",
    ),
    "cluster role": ("rights", lambda o: add(o, "ClusterRole", rules=[]), "reaches beyond the namespace"),
    "service without pods": (
        "references",
        lambda o: put(named(o, "Service", "mlflow"), "spec", "selector", {"app.kubernetes.io/name": "mflow"}),
        "selects the pods of 0 objects",
    ),
    "service on two pods": (
        "references",
        lambda o: put(named(o, "Service", "mlflow"), "spec", "selector", {"app.kubernetes.io/part-of": "shipway"}),
        "selects the pods of 2 objects",
    ),
    "service's port": (
        "references",
        lambda o: put(named(o, "Service", "mlflow"), "spec", "ports", 0, "targetPort", "web"),
        "port web is none",
    ),
    "open to the outside": (
        "references",
        lambda o: put(named(o, "Service", "mlflow"), "spec", "type", "LoadBalancer"),
        "opens it to the outside",
    ),
    "no such account": ("references", lambda o: put(pod(o), "serviceAccountName", "x"), "no ServiceAccount x"),
    "no such config map": (
        "references",
        lambda o: put(container(o), "envFrom", 0, "configMapRef", "name", "x"),
        "no ConfigMap x",
    ),
    "no such secret": (
        "references",
        lambda o: put(container(o), "env", 0, "valueFrom", "secretKeyRef", "name", "x"),
        "no Secret x",
    ),
    "no such secret volume": (
        "references",
        lambda o: put(pod(o, "StatefulSet", "postgres"), "volumes", 3, "secret", "secretName", "x"),
        "no Secret x",
    ),
    "no such claim": (
        "references",
        lambda o: put(pod(o, "Job", "shipway-work-owner"), "volumes", 0, "persistentVolumeClaim", "claimName", "x"),
        "no PersistentVolumeClaim x",
    ),
    "no such volume": (
        "references",
        lambda o: put(container(o), "volumeMounts", 0, "name", "x"),
        "mounts x",
    ),
    "no such pull secret": (
        "references",
        lambda o: put(named(o, "ServiceAccount", "shipway-server"), "secrets", 0, "name", "x"),
        "no Secret x",
    ),
    "no such store": (
        "references",
        lambda o: put(named(o, "SecretStore", "shipway"), "metadata", "name", "x"),
        "no SecretStore shipway",
    ),
    "store's account": (
        "references",
        lambda o: put(
            named(o, "SecretStore", "shipway"),
            "spec",
            "provider",
            "aws",
            "auth",
            "jwt",
            "serviceAccountRef",
            "name",
            "x",
        ),
        "no ServiceAccount x",
    ),
    "no such governing service": (
        "references",
        lambda o: put(named(o, "StatefulSet", "postgres"), "spec", "serviceName", "x"),
        "no Service x",
    ),
    "selector of others": (
        "references",
        lambda o: put(named(o, "Deployment", "mlflow"), "spec", "selector", {"matchLabels": {"app": "x"}}),
        "does not select its own pods",
    ),
    "role names no secret": (
        "references",
        lambda o: role(o, "shipway-pipeline", resources=["secrets"], resourceNames=["x"]),
        "no Secret x",
    ),
    "no such certificate": (
        "references",
        lambda o: put(named(o, "Ingress", "trigger"), "spec", "tls", 0, "secretName", "x"),
        "no Secret x",
    ),
    "host without TLS": (
        "references",
        lambda o: put(named(o, "Ingress", "trigger"), "spec", "rules", 0, "host", "plain.example.com"),
        "plain.example.com without TLS",
    ),
    "every host": (
        "references",
        lambda o: put(named(o, "Ingress", "trigger"), "spec", "rules", 0, "host", None),
        "any host without TLS",
    ),
    "no such backend": (
        "references",
        lambda o: put(hooks(o), "backend", "service", "name", "x"),
        "no port {'name': 'http'} of a Service x",
    ),
    "no such backend's port": (
        "references",
        lambda o: put(hooks(o), "backend", "service", "port", "name", "web"),
        "no port {'name': 'web'}",
    ),
    "all of the service": ("references", lambda o: put(hooks(o), "path", "/"), "is open to the outside"),
    "default backend": (
        "references",
        lambda o: put(named(o, "Ingress", "trigger"), "spec", "defaultBackend", {"service": {"name": "trigger"}}),
        "lets everything through",
    ),
    "receiver's secret": (
        "references",
        lambda o: put(
            named(o, "AlertmanagerConfig", "shipway-trigger")["spec"]["receivers"][0]["webhookConfigs"][0],
            *("httpConfig", "authorization", "credentials", "name", "x"),
        ),
        "no Secret x",
    ),
    "budget for nobody": (
        "disruptions",
        lambda o: put(named(o, "PodDisruptionBudget", "mlflow"), "spec", "selector", {"matchLabels": {"app": "x"}}),
        "selects the pods of 0 objects",
    ),
    "no budget": (
        "disruptions",
        lambda o: o.remove(named(o, "PodDisruptionBudget", "predictor")),
        "ServingRuntime/shipway-server: 0 budgets",
    ),
    "no room to drain": (
        "disruptions",
        lambda o: put(named(o, "PodDisruptionBudget", "mlflow"), "spec", "maxUnavailable", 0),
        "no room to drain",
    ),
    "minAvailable": (
        "disruptions",
        lambda o: put(named(o, "PodDisruptionBudget", "postgres"), "spec", "minAvailable", 1),
        "no room to drain",
    ),
    "privileged namespace": (
        "namespaces",
        lambda o: put(
            named(o, "Namespace", "shipway"), "metadata", "labels", "pod-security.kubernetes.io/enforce", "privileged"
        ),
        "admits privileged pods",
    ),
    "silent namespace": (
        "namespaces",
        lambda o: put(named(o, "Namespace", "shipway"), "metadata", "labels", "pod-security.kubernetes.io/warn", None),
        "does not warn",
    ),
    "no quota": ("namespaces", lambda o: o.remove(named(o, "ResourceQuota", "shipway")), "one ResourceQuota"),
    "no defaults": ("namespaces", lambda o: o.remove(named(o, "LimitRange", "shipway")), "one LimitRange"),
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_policy_is_seen(name: str) -> None:
    check, damage, complaint = BREAKS[name]
    objects = installation(ALL)
    damage(objects)
    found = CHECKS[check](objects)
    assert any(complaint in line for line in found), found


def test_every_check_is_broken_by_some_test() -> None:
    assert {check for check, _, _ in BREAKS.values()} == set(CHECKS)


@pytest.mark.parametrize("text", ["1.5.2", "lots", "", "4 Gi", "1e3x"])
def test_a_malformed_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a quantity"):
        quantity(text)


def test_no_file_of_ours_holds_a_secret_in_plain_text() -> None:
    # Of the sources, comments included: what a build drops is in the repository all the same.
    for path in ROOT.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert not isinstance(document, dict) or document.get("kind") != "Secret", path
