"""What goes wrong on the way to a store: each is one clear line, in bounded time, and nothing half is taken."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
from fsspec.config import conf
from storage_proxy import meddling

from shipway.errors import InputError
from shipway.lineage import storage

Put = Callable[[str, bytes], None]

# moto does not check the signature.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request, Signature=0"}


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def closed() -> str:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}"


def refused(uri: str, folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        storage.fetch(uri, folder / "copy")
    message = str(caught.value)
    assert message.startswith(f"{uri}")
    assert len(message.splitlines()) == 1
    assert "testing" not in message
    return message


def test_missing_bucket(bucket: str, tmp_path: Path) -> None:
    scheme = bucket.partition("://")[0]
    assert refused(f"{scheme}://no-such-bucket/rows.csv", tmp_path).endswith("no such bucket")
    with pytest.raises(InputError, match=r"no such (bucket|file)"):
        storage.write_bytes(f"{scheme}://no-such-bucket/rows.csv", b"1")
    (tmp_path / "rows.csv").write_text("x")
    with pytest.raises(InputError, match=r"no such (bucket|file)"):
        storage.upload(tmp_path / "rows.csv", f"{scheme}://no-such-bucket/rows.csv")


def test_missing_object(bucket: str, tmp_path: Path) -> None:
    assert refused(f"{bucket}/a/rows.csv", tmp_path).endswith("no such file or folder")
    assert storage.read_bytes(f"{bucket}/a/rows.csv") is None
    assert storage.names(f"{bucket}/a") == []
    assert not storage.exists(f"{bucket}/a/rows.csv")
    storage.remove(f"{bucket}/a")


def test_no_credentials(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    message = refused(f"{s3}/rows.csv", tmp_path)
    assert "no credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message


def test_no_google_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    message = refused("gs://rows/rows.csv", tmp_path)
    assert "no credentials" in message
    assert "GOOGLE_APPLICATION_CREDENTIALS" in message


def test_no_permission(s3: str, moto_url: str, tmp_path: Path) -> None:
    requests.post(f"{moto_url}/moto-api/reset-auth", data="0", timeout=10).raise_for_status()
    try:
        assert "no permission to read it" in refused(f"{s3}/rows.csv", tmp_path)
        with pytest.raises(InputError, match="no permission to write it"):
            storage.write_bytes(f"{s3}/rows.csv", b"1")
    finally:
        requests.post(f"{moto_url}/moto-api/reset-auth", data="1000000", timeout=10)


def test_nobody_at_the_endpoint(s3: str, closed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", closed)
    assert f"cannot reach the storage at {closed} (AWS_ENDPOINT_URL)" in refused(f"{s3}/rows.csv", tmp_path)


def test_endpoint_that_never_answers(s3: str, silent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", silent)
    # The waits are bounded in any case; fsspec's own configuration makes them short.
    conf["s3"] = {"config_kwargs": {"read_timeout": 0.2, "retries": {"total_max_attempts": 1}}}
    assert f"cannot reach the storage at {silent}" in refused(f"{s3}/rows.csv", tmp_path)


def test_download_that_comes_short(s3: str, put: Put, moto_url: str, tmp_path: Path, monkeypatch) -> None:
    put(f"{s3}/folder/rows.csv", b"x,y\n" * 50)
    with meddling(moto_url, "rows.csv", lambda body: body[:100]) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _forget()
        message = refused(f"{s3}/folder/rows.csv", tmp_path)
    assert "100 of its 200 bytes came" in message


def test_connection_that_breaks_off(s3: str, put: Put, moto_url: str, tmp_path: Path, monkeypatch) -> None:
    put(f"{s3}/folder/rows.csv", b"x,y\n" * 50)
    with meddling(moto_url, "rows.csv", lambda _: None) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _forget()
        refused(f"{s3}/folder/rows.csv", tmp_path)


@pytest.mark.parametrize("change", ["same size", "other size", "gone"])
def test_object_that_changes_while_it_is_read(
    s3: str, put: Put, moto_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    uri = f"{s3}/folder/rows.csv"
    place = f"{moto_url}/rows/folder/rows.csv"
    put(uri, b"x,y\n1,2\n")

    def meddle(body: bytes) -> bytes:
        if change == "gone":
            requests.delete(place, headers=SIGNED, timeout=10).raise_for_status()
        else:
            content = b"x,y\n3,4\n" * (1 + (change == "other size"))
            requests.put(place, data=content, headers=SIGNED, timeout=10).raise_for_status()
        return body

    with meddling(moto_url, "rows.csv", meddle) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        _forget()
        message = refused(uri, tmp_path)
    assert ("removed" if change == "gone" else "changed") in message


def test_name_that_leads_out_of_the_folder(put: Put, tmp_path: Path) -> None:
    put("memory://folder/../out.csv", b"1")
    with pytest.raises(InputError, match=r"folder/\.\./out\.csv: its name leads out of the folder"):
        storage.fetch("memory://folder", tmp_path / "copy")
    assert not (tmp_path / "out.csv").exists()


def _forget() -> None:
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
