"""A real S3 server (moto's) and a real GCS one (gcp-storage-emulator), each with an empty bucket `rows`."""

from __future__ import annotations

import copy
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before gcsfs is imported: else it asks Google about each bucket, whatever server it is told of.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

import fsspec
import gcsfs
import pytest
import requests
import s3fs
from fsspec.config import conf
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "train"))

_OWN = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "MLFLOW_", "SHIPWAY_")


@pytest.fixture(scope="session")
def moto_url() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="session")
def gcs_url() -> Iterator[str]:
    server = create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield f"http://127.0.0.1:{server._api._httpd.server_port}"
    server.stop()


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """No credentials but a test's own, no settings and filesystems of an earlier test."""
    for name in list(os.environ):
        if name.startswith(_OWN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))
    before = copy.deepcopy(conf)
    _forget()
    yield tmp_path
    conf.clear()
    conf.update(before)
    _forget()


def _forget() -> None:
    s3fs.S3FileSystem.clear_instance_cache()
    gcsfs.GCSFileSystem.clear_instance_cache()


@pytest.fixture
def s3(moto_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The S3 server with the environment that leads to it; returns the bucket's URI."""
    requests.post(f"{moto_url}/moto-api/reset", timeout=10).raise_for_status()
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    requests.put(f"{moto_url}/rows", timeout=10).raise_for_status()
    return "s3://rows"


@pytest.fixture
def gs(gcs_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The GCS server with the environment that leads to it; returns the bucket's URI."""
    requests.get(f"{gcs_url}/wipe", timeout=10).raise_for_status()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_url)
    made = requests.post(f"{gcs_url}/storage/v1/b?project=test", json={"name": "rows"}, timeout=10)
    made.raise_for_status()
    return "gs://rows"


@pytest.fixture(params=["s3", "minio", "gs"])
def bucket(request: pytest.FixtureRequest) -> str:
    """A bucket's URI on each kind of store."""
    if request.param == "minio":
        request.getfixturevalue("s3")
        return "minio://rows"
    found: str = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def put() -> Callable[[str, bytes], None]:
    """Writes an object with the store's own library."""

    def write(uri: str, content: bytes) -> None:
        uri = uri.replace("minio://", "s3://")
        options: dict[str, Any] = {"token": "anon"} if uri.startswith("gs://") else {}
        filesystem, path = fsspec.core.url_to_fs(uri, **options)
        filesystem.pipe_file(path, content)

    return write
