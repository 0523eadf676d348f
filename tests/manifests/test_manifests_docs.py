"""What docs/manifests.md tells to write works as it stands there."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from manifests_build import COMPONENTS, EXAMPLES, OVERLAYS, ROOT, Object, installation, kustomize, named, pods
from manifests_network import connections, default_deny, idle, unreachable
from manifests_policy import CHECKS
from manifests_schema import validate

from shipway.spec.resources import KubeflowSection, StageResources
from shipway.spec.watch import NotifySection

TEXT = (ROOT.parent / "docs" / "manifests.md").read_text()
DIGEST = "sha256:" + "0" * 64


def blocks() -> list[Any]:
    found = re.findall(r"^( *)```yaml\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(textwrap.dedent(body).replace("sha256:...", DIGEST)) for _, body in found]


KUSTOMIZATIONS = [block for block in blocks() if block.get("kind") == "Kustomization"]
SNIPPETS = [block for block in blocks() if set(block) == {"patches"}]
ROUTES = (ROOT / "components" / "trigger" / "routes.yaml").read_text()


def build(folder: Path, text: Object) -> list[Object]:
    """Builds a kustomization of the docs, which stands two folders below the repository's root there."""
    here = os.path.relpath(ROOT, folder.resolve())
    moved = {**text}
    for key in ("resources", "components"):
        moved[key] = [path.replace("../../manifests", here) for path in text.get(key, [])]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(moved))
    (folder / "routes.yaml").write_text(ROUTES + "# mine\n")
    (folder / "images.json").write_text("{}")
    return kustomize(folder)


def sound(objects: list[Object]) -> list[str]:
    for thing in objects:
        validate(thing)
    complaints = [line for check in CHECKS.values() for line in check(objects)]
    return [*complaints, *default_deny(objects), *idle(objects), *unreachable(objects)]


def test_the_docs_have_the_blocks_that_are_tested_here() -> None:
    assert (len(KUSTOMIZATIONS), len(SNIPPETS)) == (2, 1)
    assert len([block for block in blocks() if set(block) <= {"kubeflow", "notify", "resources"}]) == 2
    assert len([block for block in blocks() if "receivers" in block]) == 1


def test_the_users_overlay_builds_soundly(tmp_path: Path) -> None:
    objects = build(tmp_path, KUSTOMIZATIONS[0])
    assert sound(objects) == []
    ours = {container["image"] for pod in pods(objects) for container in pod.spec["containers"]} - {
        "postgres:17.9-bookworm"
    }
    assert ours == {
        f"registry.example.com/ml/shipway/{image}@{DIGEST}" for image in ("components", "server", "trigger")
    }
    settings = named(objects, "ConfigMap", "mlflow-settings")["data"]
    assert settings["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://my-bucket/mlflow"
    assert settings["MLFLOW_SERVER_ALLOWED_HOSTS"]
    routes = named(objects, "ConfigMap", "trigger-routes")["data"]
    assert set(routes) == {"routes.yaml", "images.json"}
    assert routes["routes.yaml"].endswith("# mine\n")
    ingress = named(objects, "Ingress", "trigger")["spec"]
    assert [rule["host"] for rule in ingress["rules"]] == ingress["tls"][0]["hosts"] == ["trigger.mycompany.com"]


def test_a_managed_database_takes_the_place_of_ours(tmp_path: Path) -> None:
    objects = build(tmp_path, KUSTOMIZATIONS[1])
    assert [o for o in objects if o["metadata"]["name"] == "postgres"] == []
    # Its policy is about an address of the user's, so only the rest of what `sound` says must be quiet.
    assert sound(objects) == []
    assert not any("postgres" in connection for connection in connections(objects))
    for config, key in (("mlflow-settings", "MLFLOW_BACKEND_STORE_URI"), ("trigger-settings", "SHIPWAY_DATABASE_URL")):
        assert "database.example.com" in named(objects, "ConfigMap", config)["data"][key]
    # What reached our database reaches that one, and no more of it is left.
    for name in ("mlflow", "trigger"):
        egress = named(objects, "NetworkPolicy", name)["spec"]["egress"]
        database = [rule["to"] for rule in egress if rule["ports"] == [{"protocol": "TCP", "port": 5432}]]
        assert database == [[{"ipBlock": {"cidr": "10.20.30.0/28"}}]], name
    trigger = named(objects, "Deployment", "trigger")["spec"]["template"]["spec"]
    mounted = {mount["name"] for container in trigger["containers"] for mount in container["volumeMounts"]}
    assert {volume["name"] for volume in trigger["volumes"]} == mounted
    assert not trigger.get("initContainers")


def test_the_namespace_can_enforce_restricted(tmp_path: Path) -> None:
    objects = build(tmp_path, {"resources": ["../../manifests/overlays/production"], **SNIPPETS[0]})
    labels = named(objects, "Namespace", "shipway")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_specs_sections_are_good_ones() -> None:
    for block in blocks():
        if "kubeflow" in block:
            section = KubeflowSection.model_validate(block["kubeflow"])
            assert section.service_account == "shipway-pipeline"
            notify = NotifySection.model_validate(block["notify"])
            assert notify.secret == "shipway-notify"
            assert notify.events is not None
            assert notify.events.url == "http://trigger:8090/hooks/shipway"
        for resources in block.get("resources", {}).values() if isinstance(block.get("resources"), dict) else ():
            assert StageResources.model_validate(resources).node_selector == {"shipway.dev/pool": "gpu"}


@pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS, *EXAMPLES])
def test_every_part_is_in_the_docs(name: str) -> None:
    assert re.search(rf"[`/]{name}[`/]", TEXT)


def test_the_plain_alertmanager_sends_what_the_operators_sends() -> None:
    (config,) = [block for block in blocks() if "receivers" in block]
    (route,) = config["route"]["routes"]
    (hook,) = next(one for one in config["receivers"] if one["name"] == route["receiver"])["webhook_configs"]
    ours = named(installation("production+monitoring"), "AlertmanagerConfig", "shipway-trigger")["spec"]
    (matcher,) = ours["route"]["matchers"]
    assert route["matchers"] == [f'{matcher["name"]}="{matcher["value"]}"']
    assert (route["group_by"], route["continue"]) == (ours["route"]["groupBy"], ours["route"]["continue"])
    (receiver,) = ours["receivers"][0]["webhookConfigs"]
    assert urlsplit(hook["url"]).path == urlsplit(receiver["url"]).path
    assert hook["http_config"]["authorization"]["credentials_file"].endswith("/ALERTMANAGER_TOKEN")


def test_every_alert_and_its_action_are_in_the_docs() -> None:
    rules = [
        rule
        for thing in installation("production+monitoring")
        if thing["kind"] == "PrometheusRule"
        for group in thing["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    table = {
        name: action
        for names, action in re.findall(r"^\| (`Shipway.*?) \|.*\| `(\w+)` \|$", TEXT, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert table == {rule["alert"]: rule["labels"]["action"] for rule in rules}


def test_the_rules_for_a_plain_prometheus_come_out_of_the_docs_command() -> None:
    (program,) = re.findall(r'python -c "\n(.*?)" > shipway-rules', TEXT, re.DOTALL)
    objects = yaml.safe_dump_all(installation("production+monitoring"))
    done = subprocess.run([sys.executable, "-c", program], input=objects, capture_output=True, text=True, check=True)
    groups = [group["name"] for group in yaml.safe_load(done.stdout)["groups"]]
    assert sorted(groups) == ["shipway-models", "shipway-servers", "shipway-trigger"]
