"""Builds the manifests with the real `kubectl kustomize`, and looks things up in what it makes."""

import copy
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
ROOT = Path(__file__).parents[2] / "manifests"
KUBECTL = Path(sys.executable).parent / "kubectl"

OVERLAYS = sorted(path.name for path in (ROOT / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (ROOT / "components").iterdir())
EXAMPLES = sorted(path.name for path in (ROOT / "examples").iterdir())
_KUSTOMIZATIONS = {
    name: yaml.safe_load((ROOT / "overlays" / name / "kustomization.yaml").read_text()) for name in OVERLAYS
}
NAMESPACES = {name: text["namespace"] for name, text in _KUSTOMIZATIONS.items()}
# What an overlay has in it already, and what may be put to it.
INCLUDED = {name: [Path(path).name for path in text.get("components", [])] for name, text in _KUSTOMIZATIONS.items()}
OPTIONAL = {name: [component for component in COMPONENTS if component not in INCLUDED[name]] for name in OVERLAYS}
WHOLE = {name: f"{name}+{'+'.join(OPTIONAL[name])}" for name in OVERLAYS}

# Every way in which the manifests may be put together, by name: each overlay as it is, each optional component on each
# overlay, and everything at once.
INSTALLATIONS = [
    *OVERLAYS,
    *(f"{overlay}+{component}" for overlay in OVERLAYS for component in OPTIONAL[overlay]),
    *WHOLE.values(),
]


class BuildError(Exception):
    """`kubectl kustomize` refused a folder."""


def kustomize(folder: Path) -> list[Object]:
    """Returns the objects that a folder builds to."""
    done = subprocess.run([str(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"{folder}: {done.stderr.strip()}")
    if done.stderr.strip():
        raise BuildError(f"{folder}: a warning: {done.stderr.strip()}")
    return [document for document in yaml.load_all(done.stdout, yaml.CSafeLoader) if document]


@functools.cache
def _installation(name: str) -> list[Object]:
    overlay, *components = name.split("+")
    with tempfile.TemporaryDirectory() as folder:
        relative = {path: os.path.relpath(ROOT / path, Path(folder).resolve()) for path in ("overlays", "components")}
        text = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            # What a component adds has none by itself.
            "namespace": NAMESPACES[overlay],
            "resources": [f"{relative['overlays']}/{overlay}"],
            "components": [f"{relative['components']}/{component}" for component in components],
        }
        (Path(folder) / "kustomization.yaml").write_text(yaml.safe_dump(text))
        return kustomize(Path(folder))


def installation(name: str) -> list[Object]:
    """Returns the objects of `overlay` or `overlay+component+...`; the caller may change them."""
    return copy.deepcopy(_installation(name))


@functools.cache
def _example(name: str) -> list[Object]:
    return kustomize(ROOT / "examples" / name)


def example(name: str) -> list[Object]:
    """Returns the objects of an example; the caller may change them."""
    return copy.deepcopy(_example(name))


def named(objects: list[Object], kind: str, name: str) -> Object:
    """Returns the one object of a kind and name, or of a name that ends in a hash of kustomize's."""
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"].split("-hash-")[0] == name]
    found = found or [o for o in objects if o["kind"] == kind and o["metadata"]["name"].startswith(f"{name}-")]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]


@dataclass(frozen=True)
class Pod:
    """A pod that an object leads to.

    Attributes:
        owner: The object, as `Deployment/mlflow`.
        labels: The pod's.
        spec: Its pod spec (of a ServingRuntime: the part that it has).
        namespace: Where it runs.
    """

    owner: str
    labels: dict[str, str]
    spec: Object
    namespace: str


def label(thing: Object) -> str:
    """Returns `Kind/name`."""
    return f"{thing['kind']}/{thing['metadata']['name']}"


# What KServe gives the pods of every InferenceService.
PREDICTOR_LABELS = {
    "serving.kserve.io/inferenceservice": "flights",
    "component": "predictor",
    "app": "isvc.flights-predictor",
}


def pods(objects: list[Object]) -> Iterator[Pod]:
    """Yields every pod of the objects, those that KServe makes in a ServingRuntime included."""
    for thing in objects:
        spec, namespace = thing.get("spec", {}), thing["metadata"].get("namespace", "")
        if thing["kind"] == "Pod":
            yield Pod(label(thing), thing["metadata"].get("labels", {}), spec, namespace)
        elif thing["kind"] == "CronJob":
            template = spec["jobTemplate"]["spec"]["template"]
            yield Pod(label(thing), template["metadata"].get("labels", {}), template["spec"], namespace)
        elif thing["kind"] == "ServingRuntime":
            yield Pod(label(thing), {**PREDICTOR_LABELS, **spec.get("labels", {})}, spec, namespace)
        elif isinstance(spec, dict) and "containers" in spec.get("template", {}).get("spec", {}):
            yield Pod(label(thing), spec["template"]["metadata"].get("labels", {}), spec["template"]["spec"], namespace)


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Returns whether a LabelSelector selects these labels, as Kubernetes reads it."""
    for key, value in selector.get("matchLabels", {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions", []):
        key, operator, values = term["key"], term["operator"], term.get("values", [])
        holds = {
            "In": labels.get(key) in values,
            "NotIn": labels.get(key) not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[operator]
        if not holds:
            return False
    return True
