"""`shipway step` with its inputs and outputs on a store, in real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shipway.lineage import storage

PENGUINS = Path(__file__).parents[3] / "pipelines/examples/penguins/shipway.yaml"
Put = Callable[[str, bytes], None]


def shipway(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a step in a folder of its own, with nothing else to write to but $TMPDIR."""
    (folder / "tmp").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "shipway.cli", "step", *arguments]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_stages_meet_on_a_store(bucket: str, put: Put, tmp_path: Path) -> None:
    put(f"{bucket}/in/rows.csv", b"x,kind\n" + b"".join(b"%d,%c\n" % (i, "ab"[i % 2].encode()) for i in range(100)))
    data = json.dumps({"uri": f"{bucket}/in/*.csv", "label": "kind"})
    out = f"{bucket}/run/ingest"
    done = shipway(tmp_path, "ingest", "--data", data, "--out", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert storage.read_bytes(f"{out}/Output") == done.stdout.strip().encode()
    assert storage.names(out) == ["Output", "dataset.artifact.json", "step.json"]

    split = ("split", "--data", data, "--split", '{"by": "hash", "columns": ["x"]}', "--dataset", f"{out}/dataset")
    done = shipway(tmp_path, *split, "--out", f"{bucket}/run/split/")
    assert (done.returncode, done.stderr) == (0, "")
    described = json.loads(storage.read_bytes(f"{bucket}/run/split/train.artifact.json") or b"{}")
    assert described["type"] == "system.Dataset"
    assert described["metadata"]
    record = json.loads(storage.read_bytes(f"{bucket}/run/split/step.json") or b"{}")
    assert record["status"] == "succeeded"
    # Nothing stays behind here.
    assert list((tmp_path / "tmp").iterdir()) == []

    # Half an upload, as a killed step leaves it, is no dataset.
    storage.remove(f"{out}/dataset/part-00000.parquet")
    done = shipway(tmp_path, *split, "--out", f"{bucket}/run/again")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"shipway: {out}/dataset/part-00000.parquet: missing")
    put(f"{out}/dataset/part-00000.parquet", b"short")
    done = shipway(tmp_path, *split, "--out", f"{bucket}/run/again")
    assert done.returncode == 2
    assert "5 bytes, expected" in done.stderr


def test_failed_step_s_record_is_uploaded(s3: str, tmp_path: Path) -> None:
    data = json.dumps({"uri": f"{s3}/nothing.csv", "label": "kind"})
    done = shipway(tmp_path, "ingest", "--data", data, "--out", f"{s3}/run/ingest")
    assert done.returncode == 2
    assert done.stderr == f"ingest: {s3}/nothing.csv: no such file\n"
    record = json.loads(storage.read_bytes(f"{s3}/run/ingest/step.json") or b"{}")
    assert record["status"] == "failed"
    assert storage.names(f"{s3}/run/ingest") == ["step.json"]


def test_output_that_cannot_be_written(s3: str, tmp_path: Path) -> None:
    done = shipway(tmp_path, "champion", "--name", "x", "--out", f"{s3}-of-another/run")
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.endswith("no such bucket")
