"""Checkpoints on S3: a training killed in one container goes on in another to the same bits."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from fsspec.config import conf

from shipway.errors import InputError
from shipway.lineage import storage
from shipway.train.checkpoints import Checkpoint, hold

NETWORK = """
import os
import torch

class Net(torch.nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layer = torch.nn.Linear(inputs, outputs)
        self.epochs = 0

    def train(self, mode=True):
        self.epochs += bool(mode)
        if mode and os.environ.get("HOLD_AT") == str(self.epochs):
            open(os.environ["HOLD_FIFO"]).read()
        return super().train(mode)

    def forward(self, x):
        return self.layer(x)

def build(inputs, outputs):
    return Net(inputs, outputs)
"""


def checkpoint(epoch: int) -> Checkpoint:
    return Checkpoint(epoch, {"w": torch.full((3,), float(epoch))}, {"history": [{}] * epoch})


def open_once_read(fifo: Path, process: subprocess.Popen[bytes]) -> int:
    """Opens a FIFO once the process has it open, which is when its training begins the epoch in question."""
    while process.poll() is None:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            time.sleep(0.01)
    raise AssertionError(process.communicate()[1].decode())


def test_copy_is_restored_pruned_and_cleared(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPWAY_CHECKPOINTS", f"{bucket}/checkpoints/")
    with hold(tmp_path / "one" / "key") as store:
        (store.folder / "mlflow.json").write_text("{}")
        for epoch in range(1, 5):
            store.save(checkpoint(epoch))
    assert storage.names(f"{bucket}/checkpoints/key") == [
        "epoch-00003.json",
        "epoch-00003.safetensors",
        "epoch-00004.json",
        "epoch-00004.safetensors",
        "mlflow.json",
    ]
    # A container killed between the two uploads leaves tensors without their JSON.
    storage.remove(f"{bucket}/checkpoints/key/epoch-00004.json")
    with hold(tmp_path / "two" / "key") as store:
        found = store.latest()
        assert found is not None
        assert found.epoch == 3
        assert (store.folder / "mlflow.json").read_text() == "{}"
        store.clear()
    assert storage.names(f"{bucket}/checkpoints/key") == []


def test_wrong_bucket_is_told_of_before_training(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHIPWAY_CHECKPOINTS", f"{s3}-of-another/checkpoints")
    with (
        pytest.raises(InputError, match=r"s3://rows-of-another/checkpoints/key: no such bucket"),
        hold(tmp_path / "key"),
    ):
        pass


def test_store_that_goes_away_does_not_end_a_training(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SHIPWAY_CHECKPOINTS", f"{s3}/checkpoints")
    with hold(tmp_path / "key") as store:
        store.save(checkpoint(1))
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        conf["s3"] = {"config_kwargs": {"connect_timeout": 0.2, "retries": {"total_max_attempts": 1}}}
        with caplog.at_level(logging.WARNING):
            store.save(checkpoint(2))
        assert "checkpoint not uploaded, training goes on" in caplog.text
        assert store.latest() is not None


@pytest.mark.slow
def test_killed_training_goes_on_elsewhere_to_the_same_bits(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from train_inputs import make_inputs, run_training, torch_section

    (tmp_path / "model.py").write_text(NETWORK)
    inputs = make_inputs(tmp_path / "inputs", rows=200)
    section = torch_section(network="model.py:build", epochs=4, patience=4, batch_size=64)
    calm = run_training(inputs, section, tmp_path / "calm", SHIPWAY_STATE=str(tmp_path / "state-1"))

    for name in ("state-2", "state-3"):
        # MLflow takes seconds to make a database.
        (tmp_path / name).mkdir()
        shutil.copy(tmp_path / "state-1" / "mlflow.db", tmp_path / name)

    monkeypatch.setenv("SHIPWAY_CHECKPOINTS", f"{s3}/checkpoints")
    fifo = tmp_path / "hold"
    os.mkfifo(fifo)
    variables = {"HOLD_AT": "3", "HOLD_FIFO": str(fifo), "SHIPWAY_STATE": str(tmp_path / "state-2")}
    process = subprocess.Popen(
        inputs.command(section, tmp_path / "killed"), env={**os.environ, **variables}, stderr=subprocess.PIPE
    )
    handle = open_once_read(fifo, process)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    os.close(handle)
    resumed = run_training(inputs, section, tmp_path / "resumed", SHIPWAY_STATE=str(tmp_path / "state-3"))
    assert resumed["resumed_from_epoch"] == 2
    assert resumed["digest"] == calm["digest"]
    assert not storage.exists(f"{s3}/checkpoints")


def test_mounted_volume_is_the_state_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shipway.lineage import project

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(project, "_MOUNTED_STATE", tmp_path / "mounted")
    assert project.state_folder() == tmp_path / "state"
    monkeypatch.delenv("SHIPWAY_STATE")
    assert project.state_folder() == tmp_path / ".shipway"
    (tmp_path / "mounted").mkdir()
    assert project.state_folder() == tmp_path / "mounted"
