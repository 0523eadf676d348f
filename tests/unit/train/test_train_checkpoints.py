"""Checkpoints: whole or ignored, locked, gone at the end."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shipway.errors import ShipwayError
from shipway.train.checkpoints import Checkpoint, hold

HOLDER = """
import sys
from pathlib import Path
from shipway.train.checkpoints import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def checkpoint(epoch: int) -> Checkpoint:
    weights = torch.full((3,), float(epoch))
    tied = {"a": weights, "b": weights, "view": weights[1:]}
    return Checkpoint(epoch, tied, {"history": [{"val_loss": 0.1 + 0.2}] * epoch})


def test_newest_checkpoint_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    with hold(tmp_path / "run") as store:
        assert store.latest() is None
        for epoch in range(1, 5):
            store.save(checkpoint(epoch))
        found = store.latest()
        assert found is not None
        assert found.epoch == 4
        assert found.facts == checkpoint(4).facts
        assert torch.equal(found.tensors["b"], torch.full((3,), 4.0))
        assert len(list(store.folder.iterdir())) == 4
        store.clear()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncate", "flip", "json", "lost"])
def test_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    with hold(tmp_path / "run") as store:
        store.save(checkpoint(1))
        store.save(checkpoint(2))
        path = store.folder / "epoch-00002.safetensors"
        content = path.read_bytes()
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        elif damage == "flip":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        elif damage == "json":
            path.with_suffix(".json").write_text('{"epoch": 2, "ten')
        else:
            path.unlink()
        with caplog.at_level(logging.WARNING):
            found = store.latest()
        assert found is not None
        assert found.epoch == 1
        assert "damaged checkpoint" in caplog.text
        (store.folder / "epoch-00001.safetensors").write_bytes(b"")
        assert store.latest() is None


def test_held_folder_is_refused_and_freed_by_death(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(ShipwayError, match="another process has been training"), hold(folder, wait=0.1):
        pass
    holder.kill()
    holder.communicate()
    with hold(folder, wait=30) as store:
        assert store.folder == folder


def test_lock_is_not_taken_on_a_folder_that_its_holder_removed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder) as store:
        store.clear()
        with hold(folder) as second:
            second.save(checkpoint(1))
            assert second.latest() is not None


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ShipwayError, match="cannot keep checkpoints"), hold(tmp_path / "file" / "run"):
        pass
