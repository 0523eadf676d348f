"""Everything builds, and every object fits the schema of its kind."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from manifests_build import (
    COMPONENTS,
    EXAMPLES,
    INCLUDED,
    INSTALLATIONS,
    OPTIONAL,
    OVERLAYS,
    ROOT,
    WHOLE,
    BuildError,
    Object,
    example,
    installation,
    kustomize,
    label,
    named,
)
from manifests_schema import SCHEMAS, InvalidError, validate

from shipway import __version__
from shipway.component import image_name


def everything() -> dict[str, list[Object]]:
    return {**{name: installation(name) for name in INSTALLATIONS}, **{name: example(name) for name in EXAMPLES}}


@pytest.mark.parametrize("name", INSTALLATIONS)
def test_installation_fits_its_schemas(name: str) -> None:
    objects = installation(name)
    assert len(objects) > 20
    for thing in objects:
        validate(thing)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_fits_its_schemas(name: str) -> None:
    for thing in example(name):
        validate(thing)


def test_there_are_overlays_components_and_examples() -> None:
    assert OVERLAYS == ["dev", "production"]
    assert {"trigger", "monitoring", "external-secrets", "checkpoints"} <= set(COMPONENTS)
    assert INCLUDED == {"dev": ["trigger"], "production": ["trigger", "trigger-ingress"]}
    assert {"gpu-gke", "gpu-eks"} <= set(EXAMPLES)


def test_every_component_adds_or_changes_something() -> None:
    plain = installation("production")
    for component in OPTIONAL["production"]:
        assert installation(f"production+{component}") != plain, component


def test_every_file_is_in_some_build() -> None:
    # A file that no kustomization names would be tested by nothing.
    reached: set[Path] = set()
    folders = [
        ROOT / kind / name for kind, names in (("overlays", OVERLAYS), ("components", COMPONENTS)) for name in names
    ]
    folders += [ROOT / "examples" / name for name in EXAMPLES]
    while folders:
        folder = folders.pop().resolve()
        reached.add(folder / "kustomization.yaml")
        text = yaml.safe_load((folder / "kustomization.yaml").read_text())
        named = [*text.get("resources", []), *text.get("components", [])]
        named += [patch["path"] for patch in text.get("patches", []) if "path" in patch]
        named += [file for generator in text.get("configMapGenerator", []) for file in generator.get("files", [])]
        for entry in named:
            path = (folder / entry).resolve()
            if path.is_dir():
                folders.append(path)
            else:
                reached.add(path)
    assert reached == {path.resolve() for path in ROOT.rglob("*") if path.is_file()}


def test_every_schema_of_ours_is_used() -> None:
    used = {(thing["apiVersion"], thing["kind"]) for objects in everything().values() for thing in objects}
    assert set(SCHEMAS) <= used


def test_no_object_is_there_twice() -> None:
    for name, objects in everything().items():
        keys = [(o["apiVersion"], o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
        assert len(keys) == len(set(keys)), name


@pytest.mark.parametrize(("name", "namespace"), [("dev", "shipway-dev"), ("production", "shipway")])
def test_everything_is_in_the_overlays_namespace(name: str, namespace: str) -> None:
    objects = installation(WHOLE[name])
    for thing in objects:
        if thing["kind"] == "Namespace":
            assert thing["metadata"]["name"] == namespace
        else:
            assert thing["metadata"]["namespace"] == namespace, label(thing)
        for subject in thing.get("subjects", []):
            assert subject["namespace"] == namespace, label(thing)


def test_our_images_have_the_packages_version() -> None:
    # `shipway compile` and `make images` name them so.
    expected = {image_name(image) for image in ("components", "server", "trigger")}
    objects = installation(WHOLE["production"])
    found = {
        container["image"]
        for thing in objects
        for spec in (thing.get("spec", {}), thing.get("spec", {}).get("template", {}).get("spec", {}))
        for container in spec.get("containers", [])
    }
    assert {image for image in found if image.startswith("shipway/")} == expected
    assert all(image.endswith(f":{__version__}") for image in expected)


def test_a_kind_without_schema_is_refused() -> None:
    with pytest.raises(InvalidError, match=r"no schema for example\.com/v1 Widget"):
        validate({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {}})


@pytest.mark.parametrize("name", ["production", *EXAMPLES, "production+external-secrets", "production+monitoring"])
def test_an_unknown_field_is_refused_in_every_kind(name: str) -> None:
    for thing in installation(name) if name in INSTALLATIONS else example(name):
        broken = copy.deepcopy(thing)
        if isinstance(broken.get("spec"), dict):
            broken["spec"]["unknownField"] = 1
        else:
            broken["unknownField"] = 1
        with pytest.raises(InvalidError, match="unknownField"):
            validate(broken)


def test_a_wrong_type_within_a_container_of_kserves_is_refused() -> None:
    runtime = named(installation("production"), "ServingRuntime", "shipway-server")
    runtime["spec"]["containers"][0]["ports"][0]["containerPort"] = "http"
    with pytest.raises(InvalidError, match="containerPort"):
        validate(runtime)


def test_a_folder_that_does_not_build_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kustomization.yaml").write_text("resources: [missing.yaml]\n")
    with pytest.raises(BuildError, match=r"missing\.yaml"):
        kustomize(tmp_path)


def test_yaml_is_clean() -> None:
    config = ROOT.parent / ".ci" / "yamllint.yaml"
    lint = [sys.executable, "-m", "yamllint", "--strict", "--config-file", str(config), str(ROOT)]
    done = subprocess.run(lint, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
