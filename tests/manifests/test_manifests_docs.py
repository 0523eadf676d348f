"""What docs/manifests.md tells to write works as it stands there."""

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifests_build import COMPONENTS, EXAMPLES, OVERLAYS, ROOT, Object, kustomize, named, pods
from manifests_network import connections, default_deny, idle, unreachable
from manifests_policy import CHECKS
from manifests_schema import validate

from shipway.spec.resources import KubeflowSection, StageResources

TEXT = (ROOT.parent / "docs" / "manifests.md").read_text()
DIGEST = "sha256:" + "0" * 64


def blocks() -> list[Any]:
    found = re.findall(r"^( *)```yaml\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(textwrap.dedent(body).replace("sha256:...", DIGEST)) for _, body in found]


KUSTOMIZATIONS = [block for block in blocks() if block.get("kind") == "Kustomization"]
SNIPPETS = [block for block in blocks() if set(block) == {"patches"}]


def build(folder: Path, text: Object) -> list[Object]:
    """Builds a kustomization of the docs, which stands two folders below the repository's root there."""
    here = os.path.relpath(ROOT, folder.resolve())
    moved = {**text}
    for key in ("resources", "components"):
        moved[key] = [path.replace("../../manifests", here) for path in text.get(key, [])]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(moved))
    return kustomize(folder)


def sound(objects: list[Object]) -> list[str]:
    for thing in objects:
        validate(thing)
    complaints = [line for check in CHECKS.values() for line in check(objects)]
    return [*complaints, *default_deny(objects), *idle(objects), *unreachable(objects)]


def test_the_docs_have_the_blocks_that_are_tested_here() -> None:
    assert (len(KUSTOMIZATIONS), len(SNIPPETS)) == (2, 1)
    assert len([block for block in blocks() if set(block) <= {"kubeflow", "resources"}]) == 2


def test_the_users_overlay_builds_soundly(tmp_path: Path) -> None:
    objects = build(tmp_path, KUSTOMIZATIONS[0])
    assert sound(objects) == []
    ours = {container["image"] for pod in pods(objects) for container in pod.spec["containers"]} - {
        "postgres:17.9-bookworm"
    }
    assert ours == {f"registry.example.com/ml/shipway/{image}@{DIGEST}" for image in ("components", "server")}
    settings = named(objects, "ConfigMap", "mlflow-settings")["data"]
    assert settings["MLFLOW_ARTIFACTS_DESTINATION"] == "s3://my-bucket/mlflow"
    assert settings["MLFLOW_SERVER_ALLOWED_HOSTS"]


def test_a_managed_database_takes_the_place_of_ours(tmp_path: Path) -> None:
    objects = build(tmp_path, KUSTOMIZATIONS[1])
    assert [o for o in objects if o["metadata"]["name"] == "postgres"] == []
    # Its policy is about an address of the user's, so only the rest of what `sound` says must be quiet.
    assert sound(objects) == []
    assert not any("postgres" in connection for connection in connections(objects))
    assert "database.example.com" in named(objects, "ConfigMap", "mlflow-settings")["data"]["MLFLOW_BACKEND_STORE_URI"]


def test_the_namespace_can_enforce_restricted(tmp_path: Path) -> None:
    objects = build(tmp_path, {"resources": ["../../manifests/overlays/production"], **SNIPPETS[0]})
    labels = named(objects, "Namespace", "shipway")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_specs_sections_are_good_ones() -> None:
    for block in blocks():
        if "kubeflow" in block:
            section = KubeflowSection.model_validate(block["kubeflow"])
            assert section.service_account == "shipway-pipeline"
        for resources in block.get("resources", {}).values() if isinstance(block.get("resources"), dict) else ():
            assert StageResources.model_validate(resources).node_selector == {"shipway.dev/pool": "gpu"}


@pytest.mark.parametrize("name", [*OVERLAYS, *COMPONENTS, *EXAMPLES])
def test_every_part_is_in_the_docs(name: str) -> None:
    assert re.search(rf"[`/]{name}[`/]", TEXT)
