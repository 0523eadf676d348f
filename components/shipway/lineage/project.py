"""The user's project folder and the Python that a spec names in it."""

import ast
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from shipway.errors import InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_bytes, digest_file, digest_json

PROJECT_VARIABLE = "SHIPWAY_PROJECT"
STATE_VARIABLE = "SHIPWAY_STATE"
RUN_VARIABLE = "SHIPWAY_RUN_ID"
RUN_FOLDER_VARIABLE = "SHIPWAY_RUN_FOLDER"
IMAGE_VARIABLE = "SHIPWAY_IMAGE"
_IMAGE_PROJECT = Path("/opt/project")
# Where a cluster mounts a volume that outlives a step's container.
_MOUNTED_STATE = Path("/var/shipway")


def project_folder() -> Path:
    """Returns the user's project folder: `$SHIPWAY_PROJECT`, else an image's /opt/project, else the working one."""
    named = os.environ.get(PROJECT_VARIABLE)
    if named:
        return Path(named)
    return _IMAGE_PROJECT if _IMAGE_PROJECT.is_dir() else Path.cwd()


def state_folder() -> Path:
    """Returns where what outlives a run is kept (cache, registry, checkpoints, endpoints).

    It is `$SHIPWAY_STATE`, else a volume mounted at /var/shipway that can be written to, else `.shipway` here.
    """
    named = os.environ.get(STATE_VARIABLE)
    if named:
        return Path(named).absolute()
    return _MOUNTED_STATE if os.access(_MOUNTED_STATE, os.W_OK | os.X_OK) else Path(".shipway").absolute()


def state_lasts() -> bool:
    """Tells whether the state folder outlives this process: in a container, only one that was named or mounted does."""
    return (
        not os.environ.get(IMAGE_VARIABLE) or bool(os.environ.get(STATE_VARIABLE)) or state_folder() == _MOUNTED_STATE
    )


def run_id() -> str:
    """Returns the id of the run that this step belongs to, or "" outside a run."""
    return os.environ.get(RUN_VARIABLE, "")


def project_file(name: str, what: str) -> Path:
    """Returns the path of a file that the spec names, relative to the project folder.

    Args:
        name: The path as the spec gives it.
        what: What the file is for, to begin the error message ("schema", "features.transformer").

    Raises:
        InputError: There is no such file.
    """
    path = project_folder() / name
    if not path.is_file():
        raise InputError(f"{what}: no file {path} (the spec names {name!r}, relative to the project folder)")
    return path


def split_import_path(target: str) -> tuple[str, str]:
    """Splits `file.py:name` or `package.module:name` into its two parts.

    Raises:
        InputError: There is no colon, or nothing on one side of it.
    """
    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise InputError(f"{target!r}: expected FILE.py:NAME or PACKAGE.MODULE:NAME")
    return module, name


def import_file(path: Path, module_name: str | None = None) -> ModuleType:
    """Imports one Python file of the user's under its own stem, so that what it defines can be found again by name.

    Its folder is put on `sys.path`, so that it may import its neighbours. A file of the same name imported
    earlier from elsewhere is imported anew.

    Raises:
        UserCodeError: The file raised while it was imported.
    """
    name = module_name or path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    folder = str(path.parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with user_code(str(path)):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


def load_object(target: str, what: str) -> Any:
    """Imports what `FILE.py:NAME` (in the project folder) or `PACKAGE.MODULE:NAME` names.

    Args:
        target: The import path as the spec gives it.
        what: The setting it comes from, to begin an error message ("data.loader").

    Raises:
        InputError: The file, module or name does not exist.
        UserCodeError: The user's code raised while it was imported.
    """
    module_name, name = split_import_path(target)
    if module_name.endswith(".py"):
        module = import_file(project_file(module_name, what))
        where = module_name
    else:
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InputError(f"{what}: no module {error.name!r} (the spec names {target!r})") from error
        where = module_name
    if not hasattr(module, name):
        raise InputError(f"{what}: {where} has no {name!r} (the spec names {target!r})")
    return getattr(module, name)


def import_digest(target: str, what: str) -> str:
    """Returns a digest that changes when the code behind an import path of the project does.

    For `FILE.py:NAME` it covers that file and every file beside it that it imports, directly or not. For an installed
    module it is the import path's own text: its version is the image's or the lock's.

    Raises:
        InputError: There is no such file.
    """
    module_name, _ = split_import_path(target)
    if not module_name.endswith(".py"):
        return digest_bytes(target.encode())
    return digest_json({path.name: digest_file(path) for path in local_imports(project_file(module_name, what))})


def local_imports(path: Path) -> list[Path]:
    """Returns a Python file and the files of its own folder that it imports, directly or not, in name order."""
    found: dict[str, Path] = {}
    waiting = [path]
    while waiting:
        file = waiting.pop()
        if file.name in found or not file.is_file():
            continue
        found[file.name] = file
        try:
            tree = ast.parse(file.read_bytes())
        except SyntaxError:
            # The step that imports it says where; its bytes still count.
            continue
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names.append(node.module)
            waiting += [path.parent / f"{name.partition('.')[0]}.py" for name in names]
    return [found[name] for name in sorted(found)]


@contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turns whatever the user's code raises in the block into one UserCodeError with its file and line.

    Errors that Shipway itself explains pass through unchanged.

    Args:
        what: What was being run, to begin the message ("features.transformer features.py:build").

    Raises:
        UserCodeError: The block raised.
    """
    try:
        yield
    except ShipwayError:
        raise
    except Exception as error:
        # The user's own frame says more than the library's below it that raised.
        frames = traceback.extract_tb(error.__traceback__)
        project = str(project_folder().absolute())
        own = [frame for frame in frames if str(Path(frame.filename).absolute()).startswith(project + os.sep)]
        frame = own[-1] if own else frames[-1]
        # Polars adds its whole query plan after an empty line.
        said = str(error).strip().split("\n\n")[0]
        raise UserCodeError(
            f"{what}: {type(error).__name__}: {said} (at {frame.filename}:{frame.lineno} in {frame.name})"
        ) from error
