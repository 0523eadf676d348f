"""A real Prometheus that scrapes the pods of the stand-in, where Debian's package is installed."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from serving_process import until

from shipway.endpoints.client import UnreachableError, call

PROGRAM = shutil.which("prometheus")
MISSING = "no Prometheus on this machine (apt-get install prometheus)"

_CONFIG = """\
global:
  scrape_interval: 200ms
  scrape_timeout: 200ms
scrape_configs:
  - job_name: predictors
    http_sd_configs:
      - url: {targets}
        refresh_interval: 200ms
"""


@contextlib.contextmanager
def prometheus(folder: Path, targets: str) -> Iterator[str]:
    """Runs a Prometheus that asks a URL whom to scrape, and returns its own."""
    assert PROGRAM is not None, MISSING
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "prometheus.yml").write_text(_CONFIG.format(targets=targets))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [PROGRAM, *options, f"--web.listen-address=127.0.0.1:{port}"],
            stdout=output,
            stderr=output,
            env={**os.environ, "GOMAXPROCS": "1"},
        )
    url = f"http://127.0.0.1:{port}"

    def is_ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(UnreachableError):
            return call("GET", f"{url}/-/ready").status == 200
        return False

    try:
        until(is_ready)
        yield url
    finally:
        process.kill()
        process.wait()


def value(url: str, query: str) -> float:
    """Returns the sum that a query finds."""
    found = call("POST", f"{url}/api/v1/query", f"query={query}".encode(), {"content-type": _FORM})
    assert found.status == 200, found.body
    series = json.loads(found.body)["data"]["result"]
    return sum(float(entry["value"][1]) for entry in series)


_FORM = "application/x-www-form-urlencoded"
