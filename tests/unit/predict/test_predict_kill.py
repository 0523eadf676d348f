"""A scoring process that is killed at random, three times: the parts it finished stay, and the bytes are the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from predict_batches import Batch, rows

Make = Callable[..., Batch]

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from predict_batches import Batch
from shipway.model.package import Package

folder = Path(sys.argv[2])
batch = Batch(folder, Package.load(sys.argv[3]), {"slices": ["carrier"], "columns": ["day"], "max_quarantine": 0.5})
done = batch.predict(run_id=sys.argv[4])
print("found", done.reused)
"""
PARTS = 30
ROWS = 15_000


def start(batch: Batch, run_id: str) -> subprocess.Popen[str]:
    arguments = [str(Path(__file__).parent), str(batch.folder), str(batch.package.path), run_id]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, text=True)


def parts(state: Path) -> list[Path]:
    return sorted((state / "batches").glob("*/part-*.parquet"))


@pytest.mark.slow
def test_a_batch_killed_three_times_is_the_undisturbed_one(
    make_batch: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each process is killed a random while after it has finished one more part, so that it is at work."""
    settings = {"slices": ["carrier"], "columns": ["day"], "max_quarantine": 0.5}
    calm, killed = (make_batch(name=name, **settings) for name in ("calm", "killed"))
    frame = pl.concat([rows(ROWS, seed) for seed in range(3)] * (PARTS // 3))
    frame = frame.with_columns(id=pl.int_range(pl.len()), distance=pl.col("distance") * 3.5)
    assert 0 < calm.screen(frame, ROWS).quarantined < PARTS * ROWS / 2
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "calm-state"))
    calm.predict(run_id="run-1")
    expected = {path.name: path.read_bytes() for path in (calm.folder / "share-0of1").glob("*.parquet")}
    expected["profile"] = (calm.folder / "profile-0of1.json").read_bytes()

    state = tmp_path / "killed-state"
    monkeypatch.setenv("SHIPWAY_STATE", str(state))
    killed.screen(frame, ROWS)
    killed.release()
    draw = np.random.default_rng()
    for attempt in range(3):
        before = len(parts(state))
        process = start(killed, f"run-{attempt + 1}")
        try:
            while len(parts(state)) <= before and process.poll() is None:
                time.sleep(0.001)
            time.sleep(float(draw.uniform(0, 0.1)))
        finally:
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert process.returncode == -signal.SIGKILL
    kept = len(parts(state))
    assert 3 <= kept < PARTS
    process = start(killed, "run-4")
    said, _ = process.communicate()
    assert process.returncode == 0
    # A kill between a part's file and its description costs that part.
    assert kept - 3 <= int(said.split()[1]) <= kept
    found = {path.name: path.read_bytes() for path in (killed.folder / "share-0of1").glob("*.parquet")}
    found["profile"] = (killed.folder / "profile-0of1.json").read_bytes()
    assert found == expected
    killed.gather()
    assert killed.info().run_id == "run-1"
    assert parts(state) == []
