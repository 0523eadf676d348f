"""What must hold for every object: each check returns its complaints, `Kind/name: what is wrong`."""

import re
from collections.abc import Callable, Iterator
from decimal import Decimal

from manifests_build import Object, Pod, label, pods, selects

Check = Callable[[list[Object]], list[str]]

# Secrets and settings that others provide; docs/manifests.md names each.
PROVIDED_SECRETS = {
    "shipway-postgres",
    "shipway-object-store",
    "shipway-object-store-reader",
    "shipway-trigger",
    "shipway-trigger-postgres",
    "shipway-trigger-tls",
    "shipway-notify",
}
# What Kubernetes puts into every namespace.
KUBERNETES_OWN = {"kube-root-ca.crt"}
# Who may change what is served; the second one with components/trigger-actions alone, which a test holds.
DEPLOYERS = {"shipway-deployer", "shipway-trigger"}
# Names within the namespace that KFP provides.
KFP_OWN = {"kfp-launcher", "mlpipeline-minio-artifact"}

_SECRET_NAME = re.compile(r"(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_KEY)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"://[^/\s:@]+:[^/\s@]+@|AKIA[0-9A-Z]{16}|-----BEGIN|\bey[A-Za-z0-9_-]{20,}\.")
_UNITS = {"": 1, "m": Decimal("0.001"), "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12} | {
    f"{unit}i": 1024**power for power, unit in enumerate("KMGT", 1)
}


def quantity(text: object) -> Decimal:
    """Returns a quantity of Kubernetes as a number.

    Raises:
        ValueError: It is none.
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", str(text))
    if not found or found[2] not in _UNITS:
        raise ValueError(f"not a quantity: {text!r}")
    return Decimal(found[1]) * _UNITS[found[2]]


def _containers(pod: Pod) -> Iterator[tuple[str, Object]]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in pod.spec.get(kind, []):
            yield f"{pod.owner}: {container['name']}", container


def images(objects: list[Object]) -> list[str]:
    """Every image has a tag or a digest, and none is `latest`."""
    found = []
    for pod in pods(objects):
        for where, container in _containers(pod):
            image = container.get("image", "")
            name, _, digest = image.partition("@")
            tag = name.rpartition("/")[2].partition(":")[2]
            if digest and not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                found.append(f"{where}: image {image} has a malformed digest")
            elif not digest and (not tag or tag == "latest" or not re.search(r"[0-9]", tag)):
                found.append(f"{where}: image {image} has no exact tag")
            if container.get("imagePullPolicy") == "Always" and not digest:
                found.append(f"{where}: imagePullPolicy Always takes whatever the tag is now")
    return found


def users(objects: list[Object]) -> list[str]:
    """No pod runs as root, or could."""
    found = []
    for pod in pods(objects):
        of_pod = pod.spec.get("securityContext", {})
        for where, container in _containers(pod):
            context = {**of_pod, **container.get("securityContext", {})}
            if context.get("runAsNonRoot") is not True:
                found.append(f"{where}: runAsNonRoot is not true")
            for key in ("runAsUser", "runAsGroup"):
                if not context.get(key):
                    found.append(f"{where}: {key} is root's or the image's")
            if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
                found.append(f"{where}: seccompProfile is not RuntimeDefault")
    return found


def privileges(objects: list[Object]) -> list[str]:
    """No container is privileged, gains privileges, keeps capabilities, or writes to its root file system."""
    found = []
    for pod in pods(objects):
        for where, container in _containers(pod):
            context = container.get("securityContext", {})
            if context.get("privileged"):
                found.append(f"{where}: privileged")
            if context.get("allowPrivilegeEscalation") is not False:
                found.append(f"{where}: allowPrivilegeEscalation is not false")
            if context.get("capabilities") != {"drop": ["ALL"]}:
                found.append(f"{where}: capabilities are not just drop: [ALL]")
            if context.get("readOnlyRootFilesystem") is not True:
                found.append(f"{where}: readOnlyRootFilesystem is not true")
            if context.get("procMount", "Default") != "Default":
                found.append(f"{where}: procMount {context['procMount']}")
    return found


def host(objects: list[Object]) -> list[str]:
    """Nothing of the node reaches into a pod."""
    found = []
    for pod in pods(objects):
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                found.append(f"{pod.owner}: {key}")
        for volume in pod.spec.get("volumes", []):
            if "hostPath" in volume:
                found.append(f"{pod.owner}: volume {volume['name']} is a hostPath")
        for where, container in _containers(pod):
            if any("hostPort" in port for port in container.get("ports", [])):
                found.append(f"{where}: hostPort")
    return found


def resources(objects: list[Object]) -> list[str]:
    """Every container requests and is limited in CPU, memory and disk; every emptyDir has a size."""
    found = []
    for pod in pods(objects):
        for volume in pod.spec.get("volumes", []):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                found.append(f"{pod.owner}: emptyDir {volume['name']} has no sizeLimit")
        for where, container in _containers(pod):
            given = container.get("resources", {})
            for resource in ("cpu", "memory", "ephemeral-storage"):
                request, limit = (given.get(key, {}).get(resource) for key in ("requests", "limits"))
                if request is None or limit is None:
                    found.append(f"{where}: no request or no limit of {resource}")
                elif not 0 < quantity(request) <= quantity(limit):
                    found.append(f"{where}: {resource} request {request} is not within its limit {limit}")
        disk = sum(
            quantity(volume["emptyDir"]["sizeLimit"])
            for volume in pod.spec.get("volumes", [])
            if "sizeLimit" in volume.get("emptyDir", {}) and volume["emptyDir"].get("medium") != "Memory"
        )
        limits = [c.get("resources", {}).get("limits", {}).get("ephemeral-storage", 0) for _, c in _containers(pod)]
        if disk and disk >= sum(quantity(limit) for limit in limits):
            found.append(f"{pod.owner}: its emptyDirs hold more than its limit of ephemeral-storage")
    return found


def probes(objects: list[Object]) -> list[str]:
    """What serves is probed three ways, on a port that it has."""
    found = []
    for pod in pods(objects):
        for where, container in _containers(pod):
            ports = container.get("ports", [])
            if not ports:
                continue
            known = {port["containerPort"] for port in ports} | {port.get("name") for port in ports}
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = container.get(kind)
                if probe is None:
                    found.append(f"{where}: no {kind}")
                elif "httpGet" in probe and probe["httpGet"]["port"] not in known:
                    found.append(f"{where}: {kind} asks port {probe['httpGet']['port']}, which it has not")
    return found


def tokens(objects: list[Object]) -> list[str]:
    """No pod of ours holds a token of the Kubernetes API or sees other services in its environment."""
    found = []
    for pod in pods(objects):
        if pod.owner.startswith("ServingRuntime/"):
            continue  # has neither field: the InferenceService has them
        if pod.spec.get("automountServiceAccountToken") is not False:
            found.append(f"{pod.owner}: automountServiceAccountToken is not false")
        if pod.spec.get("enableServiceLinks") is not False:
            found.append(f"{pod.owner}: enableServiceLinks is not false")
        if not pod.spec.get("serviceAccountName"):
            found.append(f"{pod.owner}: no serviceAccountName")
    # Steps of a pipeline need a token, for Argo; nobody else does.
    for thing in objects:
        wanted = thing["metadata"]["name"] in {"shipway-pipeline", "shipway-deployer"}
        if thing["kind"] == "ServiceAccount" and thing.get("automountServiceAccountToken") is not wanted:
            found.append(f"{label(thing)}: automountServiceAccountToken is not {str(wanted).lower()}")
    return found


def secrets(objects: list[Object]) -> list[str]:
    """No value of a secret stands anywhere."""
    found = [f"{label(o)}: a Secret with data" for o in objects if o["kind"] == "Secret"]
    for thing in objects:
        if thing["kind"] == "ConfigMap":
            for key, value in {**thing.get("data", {}), **thing.get("binaryData", {})}.items():
                if _SECRET_NAME.search(key) or _SECRET_VALUE.search(value):
                    found.append(f"{label(thing)}: {key} looks like a secret")
    for pod in pods(objects):
        for where, container in _containers(pod):
            for variable in container.get("env", []):
                name, value = variable["name"], variable.get("value", "")
                path = name.endswith(("_FILE", "_PATH")) and value.startswith("/")
                if value and ((_SECRET_NAME.search(name) and not path) or _SECRET_VALUE.search(value)):
                    found.append(f"{where}: {name} holds a literal secret")
            for argument in [*container.get("command", []), *container.get("args", [])]:
                if _SECRET_NAME.search(argument) or _SECRET_VALUE.search(argument):
                    found.append(f"{where}: argument {argument.partition('=')[0]} looks like a secret")
    return found


def rights(objects: list[Object]) -> list[str]:
    """Roles name what they allow; only deployers change what is served; nobody makes pods or reads all secrets."""
    found = [f"{label(o)}: reaches beyond the namespace" for o in objects if o["kind"].startswith("ClusterRole")]
    roles = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Role"}
    accounts = {o["metadata"]["name"] for o in objects if o["kind"] == "ServiceAccount"}
    holders: dict[str, set[str]] = {}
    for thing in (o for o in objects if o["kind"] == "RoleBinding"):
        reference = thing["roleRef"]
        if reference["kind"] != "Role" or reference["name"] not in roles:
            found.append(f"{label(thing)}: no Role {reference['name']} here")
        for subject in thing["subjects"]:
            if subject["kind"] != "ServiceAccount" or subject["name"] not in accounts:
                found.append(f"{label(thing)}: no ServiceAccount {subject['name']} here")
            if subject.get("namespace") != thing["metadata"]["namespace"]:
                found.append(f"{label(thing)}: {subject['name']} is of another namespace")
            holders.setdefault(reference["name"], set()).add(subject["name"])
    for name, role in roles.items():
        if name not in holders:
            found.append(f"Role/{name}: bound to nobody")
        for rule in role["rules"]:
            found += [f"Role/{name}: {complaint}" for complaint in _rule(rule, holders.get(name, set()))]
    return found


def _rule(rule: Object, holders: set[str]) -> list[str]:
    groups, kinds, verbs = (set(rule.get(key, [])) for key in ("apiGroups", "resources", "verbs"))
    writes = bool(verbs & {"create", "update", "patch", "delete", "deletecollection"})
    wrong = {
        "a wildcard": "*" in groups | kinds | verbs,
        "may give rights away": bool(verbs & {"impersonate", "bind", "escalate"})
        or "rbac.authorization.k8s.io" in groups,
        f"may change {', '.join(sorted(kinds))}": writes and "" in groups,
        f"may read every one of {', '.join(sorted(kinds))}": bool(kinds & {"secrets", "configmaps"})
        and not rule.get("resourceNames"),
        "others than deployers may change what is served": writes
        and "serving.kserve.io" in groups
        and not holders <= DEPLOYERS,
    }
    return [complaint for complaint, is_so in wrong.items() if is_so]


def references(objects: list[Object]) -> list[str]:
    """Whatever is named exists: services' pods and ports, accounts, config maps, claims, secrets, stores."""
    known: dict[str, set[str]] = {}
    for thing in objects:
        known.setdefault(thing["kind"], set()).add(thing["metadata"]["name"])
    made = {o["spec"]["target"]["name"] for o in objects if o["kind"] == "ExternalSecret"}
    known["Secret"] = PROVIDED_SECRETS | made
    known["ConfigMap"] = known.get("ConfigMap", set()) | KUBERNETES_OWN
    everyone = list(pods(objects))
    owners = {label(thing): thing for thing in objects}
    found = [
        f"{user}: no {kind} {name}"
        for user, kind, name in [*_named_by_pods(everyone), *_named_by_objects(objects)]
        if name not in known.get(kind, set())
    ]
    for pod in everyone:
        templates = owners[pod.owner]["spec"].get("volumeClaimTemplates", [])
        volumes = {v["name"] for v in pod.spec.get("volumes", [])} | {t["metadata"]["name"] for t in templates}
        for where, container in _containers(pod):
            for mount in container.get("volumeMounts", []):
                if mount["name"] not in volumes:
                    found.append(f"{where}: mounts {mount['name']}, which is no volume of its pod")
    for thing in objects:
        if thing["kind"] == "Service":
            found += _service(thing, everyone)
        elif thing["kind"] == "Ingress":
            found += _ingress(thing, owners)
        elif thing["kind"] in {"Deployment", "StatefulSet"}:
            spec = thing["spec"]
            if not selects(spec["selector"], spec["template"]["metadata"]["labels"]):
                found.append(f"{label(thing)}: its selector does not select its own pods")
    return found


def _named_by_pods(everyone: list[Pod]) -> Iterator[tuple[str, str, str]]:
    """Yields who names an object, its kind and its name."""
    for pod in everyone:
        if pod.spec.get("serviceAccountName"):
            yield pod.owner, "ServiceAccount", pod.spec["serviceAccountName"]
        for volume in pod.spec.get("volumes", []):
            if "persistentVolumeClaim" in volume:
                yield pod.owner, "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                if "configMap" in source:
                    yield pod.owner, "ConfigMap", source["configMap"]["name"]
                if "secret" in source:
                    yield pod.owner, "Secret", source["secret"].get("secretName") or source["secret"]["name"]
        for _, container in _containers(pod):
            variables = [variable.get("valueFrom", {}) for variable in container.get("env", [])]
            for source in [*container.get("envFrom", []), *variables]:
                for key, reference in source.items():
                    if key.startswith(("configMap", "secret")):
                        yield pod.owner, "ConfigMap" if key.startswith("configMap") else "Secret", reference["name"]


def _named_by_objects(objects: list[Object]) -> Iterator[tuple[str, str, str]]:
    for thing in objects:
        user, spec = label(thing), thing.get("spec", {})
        if thing["kind"] == "ServiceAccount":
            for secret in thing.get("secrets", []):
                yield user, "Secret", secret["name"]
        elif thing["kind"] == "StatefulSet":
            yield user, "Service", spec["serviceName"]
        elif thing["kind"] == "ExternalSecret":
            yield user, "SecretStore", spec["secretStoreRef"]["name"]
        elif thing["kind"] == "SecretStore":
            yield user, "ServiceAccount", spec["provider"]["aws"]["auth"]["jwt"]["serviceAccountRef"]["name"]
        elif thing["kind"] == "Ingress":
            yield from ((user, "Secret", entry["secretName"]) for entry in spec.get("tls", []))
        elif thing["kind"] == "AlertmanagerConfig":
            hooks = [hook for receiver in spec["receivers"] for hook in receiver["webhookConfigs"]]
            yield from ((user, "Secret", hook["httpConfig"]["authorization"]["credentials"]["name"]) for hook in hooks)
        elif thing["kind"] == "Role":
            yield from ((user, kind, name) for kind, name in _named_by_a_role(thing))


def _named_by_a_role(role: Object) -> Iterator[tuple[str, str]]:
    for rule in role["rules"]:
        for resource, kind in (("secrets", "Secret"), ("configmaps", "ConfigMap")):
            if resource in rule["resources"]:
                yield from ((kind, name) for name in rule.get("resourceNames", []) if name not in KFP_OWN)


def _service(service: Object, everyone: list[Pod]) -> list[str]:
    chosen = [pod for pod in everyone if selects({"matchLabels": service["spec"]["selector"]}, pod.labels)]
    if len(chosen) != 1:
        return [f"{label(service)}: selects the pods of {len(chosen)} objects"]
    found = []
    ports = [port for _, container in _containers(chosen[0]) for port in container.get("ports", [])]
    for port in service["spec"]["ports"]:
        target = port.get("targetPort", port["port"])
        if not any(target in (p.get("name"), p["containerPort"]) for p in ports):
            found.append(f"{label(service)}: port {target} is none of {chosen[0].owner}'s")
    if service["spec"].get("type", "ClusterIP") != "ClusterIP":
        found.append(f"{label(service)}: type {service['spec']['type']} opens it to the outside")
    return found


def _ingress(ingress: Object, owners: dict[str, Object]) -> list[str]:
    """Every host by TLS, every backend there, and nothing of a service but the paths that are named."""
    found, spec = [], ingress["spec"]
    covered = {host for entry in spec.get("tls", []) for host in entry["hosts"]}
    if "defaultBackend" in spec:
        found.append(f"{label(ingress)}: a default backend lets everything through")
    for rule in spec["rules"]:
        if rule.get("host") not in covered:
            found.append(f"{label(ingress)}: {rule.get('host', 'any host')} without TLS")
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            service = owners.get(f"Service/{backend['name']}", {"spec": {"ports": []}})
            ports = {value for port in service["spec"]["ports"] for value in (port.get("name"), port["port"])}
            if not ports & set(backend["port"].values()):
                found.append(f"{label(ingress)}: no port {backend['port']} of a Service {backend['name']}")
            if path["path"] == "/":
                found.append(f"{label(ingress)}: everything that {backend['name']} answers is open to the outside")
    return found


def disruptions(objects: list[Object]) -> list[str]:
    """What runs for long has a budget, and every budget selects something and leaves a drain room."""
    found = []
    lasting = {pod.owner: pod for pod in pods(objects) if not pod.owner.startswith(("Job/", "CronJob/", "Pod/"))}
    covered: dict[str, int] = dict.fromkeys(lasting, 0)
    for thing in objects:
        if thing["kind"] != "PodDisruptionBudget":
            continue
        chosen = [owner for owner, pod in lasting.items() if selects(thing["spec"]["selector"], pod.labels)]
        if len(chosen) != 1:
            found.append(f"{label(thing)}: selects the pods of {len(chosen)} objects")
        for owner in chosen:
            covered[owner] += 1
        if thing["spec"].get("maxUnavailable") in (None, 0, "0%") or "minAvailable" in thing["spec"]:
            found.append(f"{label(thing)}: may leave no room to drain a node")
    found += [f"{owner}: {count} budgets" for owner, count in covered.items() if count != 1]
    return found


def namespaces(objects: list[Object]) -> list[str]:
    """The namespace admits no privileged pod, and has a quota and defaults."""
    found = []
    for thing in objects:
        if thing["kind"] == "Namespace":
            labels = thing["metadata"].get("labels", {})
            if labels.get("pod-security.kubernetes.io/enforce") not in {"baseline", "restricted"}:
                found.append(f"{label(thing)}: Pod Security admits privileged pods")
            if labels.get("pod-security.kubernetes.io/warn") != "restricted":
                found.append(f"{label(thing)}: Pod Security does not warn of what is not restricted")
    for kind in ("Namespace", "ResourceQuota", "LimitRange"):
        if sum(thing["kind"] == kind for thing in objects) != 1:
            found.append(f"not exactly one {kind}")
    return found


CHECKS: dict[str, Check] = {
    check.__name__: check
    for check in (
        images,
        users,
        privileges,
        host,
        resources,
        probes,
        tokens,
        secrets,
        rights,
        references,
        disruptions,
        namespaces,
    )
}
