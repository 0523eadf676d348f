"""Digests, safe metadata, atomic writes and imports of the user's code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from shipway.errors import InputError, UserCodeError
from shipway.lineage.digests import digest_json, digest_tree
from shipway.lineage.documents import Findings, read_document
from shipway.lineage.files import atomic_folder, write_bytes, write_json
from shipway.lineage.html import page, table
from shipway.lineage.metadata import safe_metadata
from shipway.lineage.project import PROJECT_VARIABLE, import_digest, load_object, user_code


def test_json_digest_ignores_order_and_refuses_nan() -> None:
    assert digest_json({"a": 1, "b": [2]}) == digest_json({"b": [2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": 2})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest_json({"a": math.nan})


def test_tree_digest_sees_names_and_bytes_but_not_the_place(tmp_path: Path) -> None:
    for root in ("one", "two"):
        (tmp_path / root / "sub").mkdir(parents=True)
        (tmp_path / root / "sub" / "a").write_text("x")
        (tmp_path / root / "b").write_text("y")
    (tmp_path / "two" / "__pycache__").mkdir()
    (tmp_path / "two" / "__pycache__" / "b.pyc").write_text("z")
    first = digest_tree(tmp_path / "one")
    assert digest_tree(tmp_path / "two") == first
    (tmp_path / "two" / "b").write_text("changed")
    assert digest_tree(tmp_path / "two") != first
    assert digest_tree(tmp_path / "two", exclude=["b"]) == digest_tree(tmp_path / "one", exclude=["b"])
    (tmp_path / "one" / "b").rename(tmp_path / "one" / "c")
    assert digest_tree(tmp_path / "one") != first


def test_metadata_is_made_safe_for_kfp() -> None:
    dirty = {
        "none": None,
        "nan": math.nan,
        "inf": np.float32(np.inf),
        "int": np.int64(3),
        "list": [1, math.nan, "x"],
        "nested": {"bad": None, "good": np.float64(0.5)},
        "path": Path("a"),
    }
    clean = safe_metadata(dirty)
    assert clean == {"int": 3, "list": [1, "x"], "nested": {"good": 0.5}, "path": "a"}
    json.dumps(clean, allow_nan=False)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": math.inf})
    write_bytes(tmp_path / "y", b"1")
    assert json.loads(path.read_text()) == {"a": 1}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["x.json", "y"]


def test_an_atomic_folder_is_whole_or_absent(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(RuntimeError, match="half way"), atomic_folder(target) as work:
        (work / "a").write_text("1")
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []
    for content in ("1", "2"):
        with atomic_folder(target) as work:
            (work / "a").write_text(content)
    assert (target / "a").read_text() == "2"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_documents_name_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "findings"
    Findings(verdict="accepted", rows=3, breaches=[]).write(path)
    assert read_document(Findings, path).rows == 3
    path.write_text('{"verdict": "accepted"}')
    with pytest.raises(InputError, match=r"not a Findings document: rows: Field required"):
        read_document(Findings, path)
    with pytest.raises(InputError, match="no such Findings document"):
        read_document(Findings, tmp_path / "absent")


def test_import_paths_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))
    (tmp_path / "lineage_user_module.py").write_text("def good():\n    return 1 / 0\n")
    function = load_object("lineage_user_module.py:good", "data.loader")
    with (
        pytest.raises(UserCodeError, match=r"loading: ZeroDivisionError: .*lineage_user_module\.py:2 in good"),
        user_code("loading"),
    ):
        function()
    with pytest.raises(InputError, match=r"data\.loader: no file .*absent\.py"):
        load_object("absent.py:good", "data.loader")
    with pytest.raises(InputError, match="has no 'bad'"):
        load_object("lineage_user_module.py:bad", "data.loader")
    with pytest.raises(InputError, match="no module 'no_such_module'"):
        load_object("no_such_module:x", "data.loader")
    with pytest.raises(InputError, match=r"expected FILE\.py:NAME"):
        load_object("features.py", "data.loader")
    (tmp_path / "lineage_broken_module.py").write_text("import math\nmath.nope\n")
    with pytest.raises(UserCodeError, match=r"AttributeError: .*lineage_broken_module\.py:2"):
        load_object("lineage_broken_module.py:x", "data.loader")


def test_the_code_digest_follows_the_file_and_what_it_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))

    def digest() -> str:
        return import_digest("features.py:a", "features.transformer")

    (tmp_path / "features.py").write_text("from helper import b\nimport json\na = 1\n")
    (tmp_path / "helper.py").write_text("b = 1\n")
    (tmp_path / "loader.py").write_text("c = 1\n")
    before = digest()
    (tmp_path / "loader.py").write_text("c = 2\n")
    assert digest() == before
    (tmp_path / "helper.py").write_text("b = 2\n")
    after = digest()
    assert after != before
    (tmp_path / "features.py").write_text("this is no Python\n")
    assert digest() not in (before, after)
    with pytest.raises(InputError, match="no file"):
        import_digest("absent.py:a", "features.transformer")


def test_pages_escape_what_they_show() -> None:
    html = page("<b>", table(["<i>"], [["<script>alert(1)</script>", 0.5]]), "bad", "<u>")
    assert "<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "0.5000" in html
