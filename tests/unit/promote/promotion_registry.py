"""A real MLflow to register versions in: a SQLite file, or a server of its own that keeps the artifacts."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Evaluation, Release, RuleResult
from shipway.register.register import register_model


def package(folder: Path, content: str) -> Path:
    """Makes a folder that is a package as far as a registry cares."""
    (folder / "estimator").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "package.json").write_text("{}")
    (folder / "estimator" / "weights").write_text(content)
    return folder


def judged(folder: Path) -> tuple[Evaluation, Blessing]:
    """Returns an evaluation of a package and the blessing that rests on it."""
    digest = digest_tree(folder)
    evaluation = Evaluation(
        task="binary", model_digest=digest, data_version="sha256:test", rows=10, metrics={"roc_auc": 0.9}
    )
    rule = RuleResult(rule="roc_auc >= 0.5", metric="roc_auc", value=0.9, bound=0.5, passed=True)
    blessing = Blessing(
        decision="blessed", model_digest=digest, evaluation_digest=evaluation.content_digest(), rules=[rule]
    )
    return evaluation, blessing


def register(folder: Path, name: str = "flights") -> Release:
    """Registers a package, as the pipeline's step does."""
    return register_model(folder, *judged(folder), name, "sha256:data", "sha256:spec")


def register_versions(folder: Path, count: int, name: str = "flights") -> list[Release]:
    """Registers so many versions of a model, each of another package."""
    return [register(package(folder / f"{name}-{number}", str(number)), name) for number in range(1, count + 1)]


@contextmanager
def mlflow_server(folder: Path, database: Path) -> Iterator[str]:
    """Runs MLflow's own server, which keeps the artifacts too, and yields its URL."""
    folder.mkdir(parents=True)
    shutil.copy(database, folder / "mlflow.db")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "kept")]
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    with (
        open(folder / "log", "w") as log,
        subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=environment, start_new_session=True
        ) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while True:
                try:
                    httpx.get(f"{url}/health", timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    assert server.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.1)
            yield url
        finally:
            os.killpg(server.pid, 15)
