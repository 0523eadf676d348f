"""The file compiled for Kubeflow, second document and all, runs on this machine as it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.compile import compile_pipeline
from shipway.spec import load_spec

PENGUINS = Path(__file__).parents[2] / "pipelines" / "examples" / "penguins"
SETTINGS = [
    "resources.default={cpu: 64, memory: 1Ti, timeout: 1h}",
    "resources.train={accelerator: {type: H100, count: 8}, spot: true, shared_memory: 8Gi}",
    "kubeflow.volume={claim: shipway-work}",
    "kubeflow.ttl=7d",
]
RUN = """\
import sys
from kfp import components, local

compiled, root = sys.argv[1:]
local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=root, raise_on_error=True, enable_caching=False)
components.load_component_from_file(compiled)()
"""


@pytest.mark.slow
def test_the_same_file_runs_here_and_ends_at_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PENGUINS))
    compile_pipeline("training", load_spec(PENGUINS / "shipway.yaml", SETTINGS), tmp_path / "training.yaml")
    assert "\n---\n" in (tmp_path / "training.yaml").read_text()
    state = {"SHIPWAY_STATE": str(tmp_path / "state"), PROJECT_VARIABLE: str(PENGUINS), "PYTHONHASHSEED": "0"}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SHIPWAY_")} | state
    command = [sys.executable, "-c", RUN, str(tmp_path / "training.yaml"), str(tmp_path / "artifacts")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    ran = {path.name for path in (tmp_path / "artifacts").glob("*/*") if path.is_dir()}
    assert "register" in ran
    # No endpoint was named, so nothing was staged, and no server is left behind.
    assert not ran & {"deploy", "smoke"}
    (release,) = (tmp_path / "artifacts").glob("*/register/release")
    assert json.loads(release.read_text())["version"] == "1"
