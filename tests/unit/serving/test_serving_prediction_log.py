import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from serving_process import until
from telemetry_traffic import info, prediction, rows

from shipway.endpoints.log_parts import METADATA, part_name, parts
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry

ONE = np.array([[0.25, 0.75]], dtype=np.float32)
ROW = {"delay": None, "distance": 7, "holiday": True, "carrier": "é \"'"}
ENDLESS = """
import sys
from telemetry_traffic import info
from test_serving_prediction_log import ONE, ROW
from shipway.serving.prediction_log import PredictionLog
from shipway.serving.telemetry import Telemetry

telemetry = Telemetry("flights", log=PredictionLog(sys.argv[1], part_rows=50))
counter = telemetry.revision("v1", "1", info(), ())
while True:
    counter.answered(0.001, ONE, [ROW], "")
"""


def logged(folder: Path) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(path) for path in sorted(folder.glob("*/*.parquet")))


def filled(log: PredictionLog, requests: int = 10) -> Telemetry:
    telemetry = Telemetry("flights", log=log)
    counter = telemetry.revision("v1", "1", info(), ())
    for _ in range(requests):
        counter.answered(0.001, ONE, [ROW], "")
    return telemetry


def test_what_was_asked_and_answered(tmp_path: Path) -> None:
    telemetry = Telemetry("flights", log=PredictionLog(str(tmp_path)))
    draw = np.random.default_rng(0)
    sent = {}
    for version, task in (("1", "binary"), ("2", "multiclass"), ("3", "regression")):
        counter = telemetry.revision(f"v{version}", version, info(task), ())
        asked = [ROW, *rows(draw, 2)]
        answer = prediction(draw, 3, task)
        begun = time.time()
        counter.answered(0.002, answer, asked, "anna")
        counter.answered(0.003, answer[:1], asked[:1], "")
        telemetry.windows(0, 0)
        sent[task] = (asked, answer, begun)
    telemetry.close()
    for version, task in (("1", "binary"), ("2", "multiclass"), ("3", "regression")):
        asked, answer, begun = sent[task]
        (path,) = tmp_path.glob(f"v{version}/*.parquet")
        found = pl.read_parquet(path)
        assert METADATA in pl.read_parquet_metadata(path)
        assert found["features"].to_list() == [*asked, asked[0]]
        assert found["row"].to_list() == [0, 1, 2, 0]
        assert found["request"].n_unique() == 2
        assert found["key"].to_list() == ["anna"] * 3 + [None]
        assert found["seconds"].to_list() == [0.002] * 3 + [0.003]
        assert found["version"].unique().to_list() == [version]
        assert np.allclose(np.array(found["outputs"].to_list()), [*answer, answer[0]])
        if task == "binary":
            assert found["label"].to_list()[:3] == ["true" if p >= 0.5 else "false" for p in answer[:, 1]]
            assert np.allclose(found["prediction"].to_numpy()[:3], answer[:, 1])
        elif task == "multiclass":
            assert found["label"].to_list()[:3] == ["abc"[at] for at in answer.argmax(axis=1)]
            assert np.allclose(found["prediction"].to_numpy()[:3], answer.max(axis=1))
        else:
            assert found["label"].null_count() == 4
            assert np.allclose(found["prediction"].to_numpy()[:3], answer[:, 0])
        (part,) = parts([str(path)])
        times = found["time"].dt.epoch("us").to_numpy() / 1e6
        assert part.revision == f"v{version}"
        assert begun - 0.01 <= part.first <= times.min()
        assert times.max() <= part.last


def test_parts_end_by_rows_and_by_age(tmp_path: Path) -> None:
    log = PredictionLog(str(tmp_path), part_rows=100, part_seconds=0.2)
    telemetry = filled(log, 100)
    until(lambda: log.written == 100)
    telemetry.revision("v1", "1", info(), ()).answered(0.001, ONE, [ROW], "")
    until(lambda: log.written == 101)
    assert logged(tmp_path)["request"].n_unique() == 101
    telemetry.close()


def test_a_share_takes_whole_requests(tmp_path: Path) -> None:
    telemetry = Telemetry("flights", log=PredictionLog(str(tmp_path), share=0.5))
    counter = telemetry.revision("v1", "1", info(), ())
    for _ in range(1000):
        counter.answered(0.001, np.repeat(ONE, 3, axis=0), [ROW] * 3, "")
    telemetry.close()
    found = logged(tmp_path)
    # Six standard deviations of 1,000 draws.
    assert 400 < found["request"].n_unique() < 600
    assert found.height == 3 * found["request"].n_unique()


def test_a_folder_that_cannot_be_written_loses_rows_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.write_text("a file is in the way")
    log = PredictionLog(str(folder), part_seconds=0.01)
    telemetry = filled(log)
    until(lambda: log.lost == 10)
    telemetry.revision("v1", "1", info(), ()).answered(0.001, ONE, [ROW], "")
    until(lambda: log.lost == 11)
    assert [record.getMessage().partition(";")[0] for record in caplog.records] == [
        "the prediction log cannot be written"
    ]
    folder.unlink()
    telemetry.revision("v1", "1", info(), ()).answered(0.001, ONE, [ROW], "")
    until(lambda: log.written == 1)
    telemetry.close()
    assert (logged(folder).height, log.lost, telemetry.rows_lost) == (1, 11, 0)


def test_a_full_disk_leaves_no_half_part(tmp_path: Path) -> None:
    # A process may be told how large its files become; the kernel refuses the rest as a full disk does.
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from test_serving_prediction_log import filled\n"
        "from shipway.serving.prediction_log import PredictionLog\n"
        "telemetry = filled(PredictionLog(sys.argv[1]), 500)\n"
        "telemetry.close()\n"
        "assert (telemetry.log.lost, telemetry.log.written) == (500, 0), telemetry.log.lost\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "log")]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_store_that_hangs_costs_rows_and_not_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        log = PredictionLog("s3://hanging/log", part_rows=10, most_rows=300)
        telemetry = filled(log, 2000)
        window = telemetry.windows(0, time.time() + 1)["v1"]
        assert window.requests == window.features["delay"].rows == 2000
        assert log.lost >= 1700
        log.close(0.1)
        assert log.written == 0


def test_old_parts_are_removed(tmp_path: Path) -> None:
    folder = tmp_path / "v1"
    folder.mkdir()
    now = time.time()
    old = folder / part_name(now - 7200, now - 7100, "abc", 1)
    new = folder / part_name(now - 7200, now - 10, "abc", 2)
    other = folder / "notes.parquet"
    for path in (old, new, other):
        path.write_bytes(b"")
    log = PredictionLog(str(tmp_path), keep_seconds=3600)
    until(lambda: not old.exists())
    log.close()
    assert sorted(folder.iterdir()) == sorted([new, other])


@pytest.mark.slow
def test_kill_leaves_only_whole_parts(tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", ENDLESS, str(folder)], cwd=Path(__file__).parent) as process:
            try:
                until(lambda folder=folder: len(list(folder.glob("v1/*.parquet"))) > 3)
            finally:
                os.kill(process.pid, signal.SIGKILL)
        assert logged(folder).height >= 150
