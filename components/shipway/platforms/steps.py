"""Any stage as a plain command: paths and values in, files out.

A stage is the function of its KFP component, run by KFP's own executor. Its options, their kinds and their help are
those of the function's signature and docstring; nothing is listed twice. Of kfp only the runtime is used, which is all
that the images have.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from shipway.errors import InputError
from shipway.lineage.files import write_text
from shipway.lineage.steps import RECORD_FILE
from shipway.lineage.storage_errors import is_remote
from shipway.platforms.step_artifacts import describe, description_file, given_artifact, publish

_RUNTIME = "_KFP_RUNTIME"
_EXECUTOR_OUTPUT = "executor_output.json"
_ENTRY = re.compile(r"^ {4}(\w+): (.*)$")


@dataclass(frozen=True)
class Option:
    """One input of a stage.

    Attributes:
        name: The function's parameter.
        kind: `artifact` (a path or URI) or `parameter` (a value).
        type: A parameter's Python type, or an artifact's class.
        help: What the docstring says of it.
        required: Whether it has no default.
        default: The default.
        many: Whether it is a list of artifacts, as those of the steps of a loop.
    """

    name: str
    kind: Literal["artifact", "parameter"]
    type: Any
    help: str
    required: bool
    default: Any = None
    many: bool = False

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return "--" + self.name.replace("_", "-")


@dataclass(frozen=True)
class Stage:
    """A stage as a command.

    Attributes:
        name: The component's name.
        summary: What it does.
        options: Its inputs.
        outputs: Name -> class of the artifacts it writes.
        output_help: Name -> what the docstring says of the artifact.
        results: Names of the values it returns; KFP calls a single one `Output`.
        function: The component's function.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    outputs: Mapping[str, Any]
    output_help: Mapping[str, str]
    results: tuple[str, ...]
    function: Callable[..., Any]


def stages() -> dict[str, Stage]:
    """Returns every stage by name."""
    with _runtime_only():
        from shipway import components
    return {name: _stage(name, getattr(components, name)) for name in components.__all__}


def run_stage(
    stage: Stage, artifacts: Mapping[str, Sequence[str]], parameters: Mapping[str, Any], out: str
) -> dict[str, Any]:
    """Runs a stage in this process and returns the values that it gave back.

    Args:
        stage: The stage.
        artifacts: Paths or URIs of each input, one but for a list of artifacts; a remote one is fetched first.
        parameters: The other inputs; those with a default may be left out.
        out: Folder or URI that gets each output under its name, and `step.json`.

    Raises:
        InputError: An input is missing, is no such artifact or cannot be fetched, or `out` cannot be written.
        SystemExit: The stage failed and has said why; its `step.json` is in `out` nevertheless.
    """
    with tempfile.TemporaryDirectory(prefix="shipway-step-") as scratch:
        folder = Path(scratch, "out") if is_remote(out) else Path(out).absolute()
        classes = {option.name: option.type for option in stage.options if option.kind == "artifact"}
        inputs = {
            name: [
                given_artifact(
                    f"--{name.replace('_', '-')}", path, classes[name], Path(scratch, "in", name, str(index))
                )
                for index, path in enumerate(paths)
            ]
            for name, paths in artifacts.items()
        }
        _make_ready(stage, folder, out)
        try:
            results = _execute(stage, inputs, parameters, folder)
        except BaseException:
            if is_remote(out) and (folder / RECORD_FILE).is_file():
                publish(folder, out, [RECORD_FILE])
            raise
        if is_remote(out):
            # What tells that all the rest is there comes last.
            names = [*stage.outputs, *stage.results]
            publish(folder, out, [*map(description_file, stage.outputs), *names, RECORD_FILE])
        return results


def _execute(
    stage: Stage, inputs: Mapping[str, list[Any]], parameters: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    with _runtime_only():
        from kfp.dsl.executor import Executor

    outputs = {
        name: {"name": name, "uri": str(folder / name), "type": {"schemaTitle": kind.schema_title}, "metadata": {}}
        for name, kind in stage.outputs.items()
    }
    task = {
        "inputs": {
            "artifacts": {name: {"artifacts": given} for name, given in inputs.items()},
            "parameterValues": dict(parameters),
        },
        "outputs": {
            "artifacts": {name: {"artifacts": [artifact]} for name, artifact in outputs.items()},
            "parameters": {name: {"outputFile": str(folder / name)} for name in stage.results},
            "outputFile": str(folder / _EXECUTOR_OUTPUT),
        },
    }
    with _as_executor(task):
        Executor(executor_input=task, function_to_execute=stage.function).execute()
    written = json.loads((folder / _EXECUTOR_OUTPUT).read_text())
    (folder / _EXECUTOR_OUTPUT).unlink()
    for name, kind in stage.outputs.items():
        describe(folder / name, kind, written["artifacts"][name]["artifacts"][0]["metadata"])
    results: dict[str, Any] = written.get("parameterValues", {})
    for name, value in results.items():
        write_text(folder / name, shown(value))
    return results


def shown(value: Any) -> str:
    """Returns a returned value as the text that its file holds."""
    return value if isinstance(value, str) else json.dumps(value)


def _make_ready(stage: Stage, folder: Path, out: str) -> None:
    """Makes the output folder, without what an earlier run would tell of itself there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in [RECORD_FILE, *stage.results, *map(description_file, stage.outputs)]:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot write there: {error.strerror or error}") from error


@contextmanager
def _as_executor(task: Mapping[str, Any]) -> Iterator[None]:
    """Lets the command line be what KFP's executor has, where a step looks up its outputs."""
    before = sys.argv
    sys.argv = [before[0], "--executor_input", json.dumps(task)]
    try:
        yield
    finally:
        sys.argv = before


@contextmanager
def _runtime_only() -> Iterator[None]:
    """Lets kfp, unless it was imported before, leave out what only compiling needs."""
    before = os.environ.get(_RUNTIME)
    if "kfp" not in sys.modules:
        os.environ[_RUNTIME] = "true"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_RUNTIME, None)


def _stage(name: str, component: Any) -> Stage:
    from kfp.dsl.types import type_annotations as kinds

    function = getattr(component, "python_func", component)
    summary, described = _described(inspect.getdoc(function) or "")
    options: list[Option] = []
    outputs: dict[str, Any] = {}
    signature = inspect.signature(function)
    for parameter in signature.parameters.values():
        kind = parameter.annotation
        text = described.get(parameter.name, "")
        if kinds.is_artifact_wrapped_in_Output(kind):
            outputs[parameter.name] = kinds.strip_Input_or_Output_marker(kind)
        elif kinds.is_artifact_wrapped_in_Input(kind):
            kind = kinds.strip_Input_or_Output_marker(kind)
            many = get_origin(kind) is list
            kind = get_args(kind)[0] if many else kind
            options.append(Option(parameter.name, "artifact", kind, text, required=True, many=many))
        else:
            required = parameter.default is inspect.Parameter.empty
            default = None if required else parameter.default
            options.append(Option(parameter.name, "parameter", kind, text, required, default))
    output_help = {output: described.get(output, "") for output in outputs}
    returned = signature.return_annotation
    results = () if returned in (None, inspect.Signature.empty) else getattr(returned, "_fields", ("Output",))
    return Stage(name, summary, tuple(options), outputs, output_help, tuple(results), function)


def _described(text: str) -> tuple[str, dict[str, str]]:
    """Returns a docstring's first paragraph, and what its `Args:` say of each parameter."""
    first, _, rest = text.partition("\n\n")
    _, _, listed = rest.partition("Args:\n")
    entries: dict[str, str] = {}
    name = ""
    for line in listed.splitlines():
        if not line.startswith("    "):
            break
        if match := _ENTRY.match(line):
            name = match[1]
            entries[name] = match[2]
        else:
            entries[name] += " " + line.strip()
    return " ".join(first.split()), entries
