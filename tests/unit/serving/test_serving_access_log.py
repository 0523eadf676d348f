import contextlib
import io
import json
import os
import sys
from pathlib import Path

import pytest

from shipway.serving.access_log import AccessLog


def test_lines_are_json(tmp_path: Path) -> None:
    log = AccessLog(path=tmp_path / "access")
    for number in range(1200):
        log.write("POST", "/v1/models/flights:predict", 200, "v1", 0.00123456, number)
    log.write("GET", '/\udcff"', 404, "", 0.1, 0)
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "access").read_text().splitlines()]
    assert [line["rows"] for line in lines[:1200]] == list(range(1200))
    assert lines[0].keys() == {"time", "method", "path", "status", "revision", "milliseconds", "rows"}
    assert lines[0]["milliseconds"] == 1.235
    assert (len(lines), log.lost) == (1201, 0)


def test_errors_only(tmp_path: Path) -> None:
    log = AccessLog(errors_only=True, path=tmp_path / "access")
    for status in (200, 404, 302, 500):
        log.write("GET", "/", status, "", 0.1, 0)
    log.close()
    assert [json.loads(line)["status"] for line in (tmp_path / "access").read_text().splitlines()] == [404, 500]


def test_nowhere_to_write_loses_lines_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = AccessLog(path=tmp_path)
    for _ in range(1000):
        log.write("GET", "/", 200, "", 0.1, 0)
    log.close()
    assert log.lost == 1000
    assert len(caplog.records) == 1


def test_a_reader_that_takes_nothing_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with io.TextIOWrapper(open(writing, "wb")) as stuck, open(reading, "rb"):
        monkeypatch.setattr(sys, "stderr", stuck)
        log = AccessLog()
        for _ in range(100_000):
            log.write("GET", "/" + "x" * 50, 200, "", 0.1, 0)
        assert log.lost >= 100_000 - 20_000 - 2_000
        log.close()
        # Drained, so that its thread ends and the pipe can be closed.
        os.set_blocking(reading, False)
        while log._thread.is_alive():
            with contextlib.suppress(BlockingIOError):
                os.read(reading, 1 << 20)
            log._thread.join(0.01)
