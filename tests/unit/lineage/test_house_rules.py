"""Rules of the house that hold for every file: who may know KFP, and no pickle anywhere."""

import ast
from pathlib import Path

import pytest

import shipway

PACKAGE = Path(shipway.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported(name: str) -> set[str]:
    """Returns the first part of every module that a file imports, wherever in the file it does."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / name).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_there_are_files_to_look_at() -> None:
    assert {"component.py", "train/component.py", "train/run.py", "platforms/local.py"} <= set(FILES)
    assert "kfp" in imported("train/component.py")


@pytest.mark.parametrize("name", FILES)
def test_only_the_interface_and_the_platforms_know_kfp(name: str) -> None:
    if name.rpartition("/")[2] != "component.py" and not name.startswith("platforms/"):
        assert "kfp" not in imported(name)


@pytest.mark.parametrize("name", FILES)
def test_nothing_pickles(name: str) -> None:
    assert imported(name).isdisjoint({"pickle", "cloudpickle", "dill", "joblib"})


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith("component.py")])
def test_a_component_is_its_interface_only(name: str) -> None:
    """kfp's decorator cannot read postponed annotations, and a body is a step with a call in it."""
    tree = ast.parse((PACKAGE / name).read_text())
    assert "__future__" not in imported(name)
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list):
        statements = [node for node in function.body if not isinstance(node, (ast.ImportFrom, ast.Expr))]
        assert len(statements) == 1
        assert isinstance(statements[0], ast.With)
        assert len(statements[0].body) <= 7
        assert not any(isinstance(node, (ast.If, ast.For, ast.While, ast.Try)) for node in ast.walk(function))
