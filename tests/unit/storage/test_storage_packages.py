"""Model packages on S3: published by the registry, fetched by whoever serves, refused when tampered with."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shipway.endpoints.packages import local_package
from shipway.errors import DigestMismatchError, InputError
from shipway.lineage import storage
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Release
from shipway.model.fetch import fetch_package

Put = Callable[[str, bytes], None]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    (folder / "estimator").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "package.json").write_text('{"name": "thing"}')
    (folder / "estimator" / "weights").write_bytes(b"\0" * 100_000)
    return folder


def release(uri: str, digest: str) -> Release:
    blessing = Blessing(decision="blessed", model_digest=digest, evaluation_digest="sha256:0", rules=[])
    return Release(
        name="thing", version="1", digest=digest, package_uri=uri, tracking_uri="", created=True, blessing=blessing
    )


def test_package_comes_back_whole(bucket: str, package: Path, tmp_path: Path) -> None:
    uri = f"{bucket}/models/package-1"
    storage.upload(package, uri)
    assert digest_tree(fetch_package(uri, tmp_path / "fetched")) == digest_tree(package)
    # Another package under the same name leaves nothing of the first behind.
    (package / "estimator" / "weights").rename(package / "estimator" / "other")
    storage.remove(uri)
    storage.upload(package, uri)
    assert digest_tree(fetch_package(f"{uri}/", tmp_path / "fetched")) == digest_tree(package)


def test_endpoint_s_copy_is_the_released_one(bucket: str, package: Path, put: Put) -> None:
    uri, digest = f"{bucket}/models/package-1", digest_tree(package)
    storage.upload(package, uri)
    copy = local_package(release(uri, digest))
    assert digest_tree(copy) == digest
    put(f"{uri}/estimator/weights", b"\0" * 99_999 + b"\1")
    assert local_package(release(uri, digest)) == copy
    for path in sorted(copy.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    with pytest.raises(DigestMismatchError, match=f"the package at {uri} has digest"):
        local_package(release(uri, digest))


def test_missing_package_is_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{bucket}/nothing.*: no such file or folder"):
        fetch_package(f"{bucket}/nothing", tmp_path)
    assert list(tmp_path.glob("nothing*")) == []


@pytest.mark.slow
def test_server_says_in_one_line_what_it_cannot_fetch(s3: str) -> None:
    command = [sys.executable, "-m", "shipway.serving", "--package", f"{s3}/nothing", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == f"shipway.serving: {s3}/nothing/: no such file or folder\n"


@pytest.mark.slow
def test_registry_with_its_artifacts_on_s3(s3: str, package: Path, put: Put, tmp_path: Path) -> None:
    from shipway.lineage.tracking import client
    from shipway.model.registry import publish

    client().create_experiment("shipway-packages", artifact_location=f"{s3}/mlflow")
    first = publish("thing", package, {})
    assert first.package_uri.startswith(f"{s3}/mlflow/")
    assert digest_tree(fetch_package(first.package_uri, tmp_path / "fetched")) == digest_tree(package)
    again = publish("thing", package, {})
    assert (again.version, again.created) == (first.version, False)
    # What the store has lost is put back.
    put(f"{first.package_uri}/estimator/weights", b"tampered")
    publish("thing", package, {})
    assert digest_tree(fetch_package(first.package_uri, tmp_path / "again")) == digest_tree(package)
