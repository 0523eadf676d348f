"""The user's Python that travels inside a package: one file and those beside it that it imports."""

from __future__ import annotations

import ast
import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from shipway.errors import InputError, ShipwayError
from shipway.lineage.project import import_file, user_code

CODE_FOLDER = "code"


def copy_code(entry: Path, folder: Path) -> list[str]:
    """Copies a Python file, and every file beside or below it that it imports, to `folder/code`.

    Imports are read from the source; a module imported by a computed name is not found.

    Returns:
        The files' paths inside `code`, sorted.

    Raises:
        InputError: A file is not Python.
    """
    root = entry.parent
    found = {entry}
    pending = [entry]
    while pending:
        for path in _imported(pending.pop(), root):
            if path not in found:
                found.add(path)
                pending.append(path)
    files = sorted(path.relative_to(root).as_posix() for path in found)
    for name in files:
        target = folder / CODE_FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, target)
    return files


def import_code(folder: Path, files: list[str]) -> list[str]:
    """Imports the files of `folder/code` under the names they had in the user's project.

    The folder stays at the head of `sys.path`. Modules of the same names that were loaded from elsewhere (the user's
    project, another package) are replaced; objects already made of them keep working.

    Returns:
        The modules' names.

    Raises:
        ShipwayError: A file is missing.
        UserCodeError: The user's code raised.
    """
    code = (folder / CODE_FOLDER).absolute()
    modules = [module_name(name) for name in files]
    missing = [name for name in files if not (code / name).is_file()]
    if missing:
        raise ShipwayError(f"{code}: missing {', '.join(missing)}")
    for name in modules:
        sys.modules.pop(name, None)
    if str(code) in sys.path:
        sys.path.remove(str(code))
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()
    for name, file in zip(modules, files, strict=True):
        if name in sys.modules:
            continue
        if "." not in name and not file.endswith("__init__.py"):
            import_file(code / file, name)
        else:
            with user_code(str(code / file)):
                importlib.import_module(name)
    return modules


def module_name(file: str) -> str:
    """Returns the module's name of a file given by its path inside `code`."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(path: Path, root: Path) -> Iterator[Path]:
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (SyntaxError, ValueError) as error:
        raise InputError(f"{path}: not Python: {error}") from error
    package = path.parent.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(tuple(alias.name.split(".")), root)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from _files(module, root)
            for alias in node.names:
                yield from _files((*module, alias.name), root)


def _files(module: tuple[str, ...], root: Path) -> Iterator[Path]:
    """Yields the files below `root` that importing a module loads: its packages' `__init__.py` and its own."""
    for end in range(1, len(module) + 1):
        place = root.joinpath(*module[:end])
        for path in (place / "__init__.py", place.with_name(f"{place.name}.py")):
            if path.is_file():
                yield path
