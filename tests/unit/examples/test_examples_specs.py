"""What holds for every example."""

from pathlib import Path

import pytest
import yaml
from yamllint import config, linter

from shipway.dataset.schema import schema_columns
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.spec import load_spec

EXAMPLES = Path(__file__).parents[3] / "pipelines/examples"
NAMES = ["flights", "penguins"]
GUIDES = [
    "bring-your-own-data.md",
    "endpoints.md",
    "inference.md",
    "kserve.md",
    "monitoring.md",
    "notifications.md",
    "promotion.md",
    "resources.md",
    "rollout.md",
    "serving.md",
    "triggers.md",
    "vertex.md",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_loads_and_names_what_is_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    project = EXAMPLES / name
    monkeypatch.setenv(PROJECT_VARIABLE, str(project))
    spec = load_spec(project / "shipway.yaml")
    assert spec.name == name
    assert spec.gates
    columns = set(schema_columns(spec.data_schema.pandera))
    named = {
        spec.data.label,
        *spec.data.key,
        *spec.data_schema.nulls,
        *spec.features.drop,
        *spec.evaluate.slices,
        *getattr(spec.split, "columns", []),
    }
    assert named <= columns


@pytest.mark.parametrize("path", sorted(EXAMPLES.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_yaml_is_tidy(path: Path) -> None:
    rules = config.YamlLintConfig(
        "extends: default\nrules: {line-length: {max: 120}, document-start: disable, braces: {max-spaces-inside: 1}}"
    )
    assert [str(problem) for problem in linter.run(path.read_text(), rules)] == []


def test_the_guides_walk_through_every_key_of_the_spec() -> None:
    from shipway.spec.load import json_schema

    docs = EXAMPLES.parents[1] / "docs"
    guide = "".join((docs / page).read_text() for page in GUIDES)
    schema = json_schema()
    keys = set(schema["properties"])
    for section in schema["$defs"].values():
        keys |= set(section.get("properties", {}))
    missing = sorted(key for key in keys if f"`{key}`" not in guide and f".{key}`" not in guide)
    assert missing == []


def test_the_guides_example_is_a_valid_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (EXAMPLES.parents[1] / "docs/bring-your-own-data.md").read_text()
    blocks = [part.partition("```")[0] for part in guide.split("```yaml\n")[1:]]
    for block in blocks:
        first, _, rest = block.partition("\n")
        if first.startswith("# my/"):
            (tmp_path / first.removeprefix("# my/")).write_text(rest)
    spec = load_spec(tmp_path / "shipway.yaml")
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))
    columns = schema_columns(spec.data_schema.pandera)
    assert {spec.data.label, *spec.data.key, spec.data.time, *spec.evaluate.slices} <= set(columns)
    for block in blocks:
        yaml.safe_load(block)
