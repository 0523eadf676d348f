"""The sections that docs/resources.md shows can be compiled as they stand there."""

import re
from pathlib import Path

import pytest
import yaml

from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.compile import compile_pipeline
from shipway.spec import load_spec

ROOT = Path(__file__).parents[2]
PENGUINS = ROOT / "pipelines" / "examples" / "penguins"
BLOCKS = re.findall(r"^```yaml\n(.*?)^```", (ROOT / "docs" / "resources.md").read_text(), re.MULTILINE | re.DOTALL)
SECTIONS = {"resources", "kubeflow", "vertex"}


def test_the_page_shows_every_section() -> None:
    assert {key for block in BLOCKS for key in yaml.safe_load(block)} == SECTIONS


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_what_the_page_shows_compiles(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PENGUINS))
    path = tmp_path / "shipway.yaml"
    path.write_text((PENGUINS / "shipway.yaml").read_text() + block)
    spec = load_spec(path)
    for target in ("kubeflow", "vertex"):
        compile_pipeline("training", spec, tmp_path / f"{target}.yaml", target=target)
        assert f"name: {spec.name}-training" in (tmp_path / f"{target}.yaml").read_text()
