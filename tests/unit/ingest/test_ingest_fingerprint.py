"""Fingerprints: another one for another source, none for what cannot be told."""

import os
from pathlib import Path

import fsspec
import pytest

from shipway.errors import InputError, UserCodeError
from shipway.ingest.fingerprint import fingerprint
from shipway.spec import DataSection


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHIPWAY_PROJECT", str(tmp_path))
    return tmp_path


def of(uri: str, source: str = "") -> str:
    return fingerprint(DataSection(uri=uri, label="y"), source)


def test_files(project: Path) -> None:
    (project / "a.csv").write_text("y\n1\n")
    first = of("*.csv")
    assert first.startswith("sha256:")
    assert of("*.csv") == first == of("none.csv", str(project / "*.csv"))
    # The same size, written later.
    (project / "a.csv").write_text("y\n2\n")
    status = (project / "a.csv").stat()
    os.utime(project / "a.csv", ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    second = of("*.csv")
    assert second != first
    (project / "b.csv").write_text("y\n2\n")
    assert of("*.csv") not in {first, second}


def test_remote_files() -> None:
    with fsspec.open("memory://marks/a.csv", "wb") as file:
        file.write(b"y\n1\n")
    first = of("memory://marks/*.csv")
    assert of("memory://marks/*.csv") == first
    with fsspec.open("memory://marks/a.csv", "wb") as file:
        file.write(b"y\n2\n")
    assert of("memory://marks/*.csv") != first


@pytest.mark.parametrize("uri", ["no.csv", "no/*.parquet", "nope://x/y.csv"])
def test_what_is_not_there_is_told_before_a_run(uri: str) -> None:
    with pytest.raises(InputError):
        of(uri)


def test_loaders(project: Path) -> None:
    def by(name: str, code: str) -> str:
        (project / f"{name}.py").write_text("def load(): raise SystemError('never called')\n" + code)
        return fingerprint(DataSection(loader=f"{name}.py:load", label="y"), "")

    assert by("silent_loader", "") == ""
    assert by("unsure_loader", "def fingerprint(): return ''") == ""
    one = by("first_loader", "def fingerprint(): return 'v1'")
    assert one.startswith("sha256:")
    assert one != by("second_loader", "def fingerprint(): return 'v2'")
    assert one != by("third_loader", "def fingerprint(): return 'v1'\n# other code")
    with pytest.raises(InputError, match=r"fingerprint\(\) must return text, found int"):
        by("wrong_loader", "def fingerprint(): return 3")
    with pytest.raises(UserCodeError, match="KeyError"):
        by("raising_loader", "def fingerprint(): raise KeyError('x')")
    with pytest.raises(InputError, match="no file"):
        fingerprint(DataSection(loader="gone.py:load", label="y"), "")
