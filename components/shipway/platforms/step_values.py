"""What a stage's parameters are given as on the command line: text, JSON, a file's content, or a section of a spec."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.errors import InputError
from shipway.lineage.storage import read_bytes
from shipway.lineage.storage_errors import is_remote

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from shipway.platforms.steps import Option, Stage

# A stage's parameter of this name is the spec's section that is called like the stage.
_OWN_SECTION = "settings"
_ENDPOINT = "endpoint"
_JSON_KINDS: Mapping[type, str] = {bool: "true or false", int: "a number", float: "a number", list: "a list"}


def parameters(stage: Stage, given: Mapping[str, str], spec: str, settings: Sequence[str]) -> dict[str, Any]:
    """Returns a stage's parameters from what the command line gives.

    Args:
        stage: The stage.
        given: Option's name -> its text; text that begins with @ names a file with the value.
        spec: Path of a spec, whose sections are taken where no option gives them; "" for none.
        settings: Overrides of the spec as `train.lr=0.01`.

    Raises:
        InputError: A value is malformed, a file is missing, or a required parameter is given by nothing.
    """
    if settings and not spec:
        raise InputError(f"step {stage.name}: --set changes a spec; name one with --spec")
    named = spec_parameters(stage, spec, settings) if spec else {}
    wanted = [option for option in stage.options if option.kind == "parameter"]
    values = {option.name: value(stage, option, given[option.name]) for option in wanted if option.name in given}
    values = {option.name: named[option.name] for option in wanted if option.name in named} | values
    missing = [option for option in wanted if option.required and option.name not in values]
    if missing:
        flags = ", ".join(option.flag for option in missing)
        hint = "" if spec or not any(section_of(stage, option.name) for option in missing) else " (or --spec FILE)"
        raise InputError(f"step {stage.name}: {flags} missing{hint}; see shipway step {stage.name} --help")
    return values


def value(stage: Stage, option: Option, text: str) -> Any:
    """Returns one parameter's value.

    Raises:
        InputError: It is malformed, or the file that it names is missing.
    """
    where = option.flag
    if text.startswith("@"):
        where = f"{option.flag} {text}"
        text = _content(where, text[1:])
    if option.type is not str:
        return _json(where, text, option.type)
    if option.name == _ENDPOINT:
        return _endpoint(where, text)
    section = section_of(stage, option.name)
    return _section(where, text, section) if section else text


def spec_parameters(stage: Stage, path: str, settings: Sequence[str]) -> dict[str, str]:
    """Returns what a spec says of a stage's parameters; its folder becomes the project.

    A spec that names no endpoint means one on this machine.

    Raises:
        InputError: The spec, or a file that it names, is bad.
    """
    from shipway.lineage.project import PROJECT_VARIABLE
    from shipway.platforms.arguments import model_arguments
    from shipway.spec import EndpointSettings, dump_endpoint, dump_section, load_spec

    os.environ[PROJECT_VARIABLE] = str(Path(path).absolute().parent)
    spec = load_spec(path, settings)
    served = spec.endpoint.model_copy(update={"kind": spec.endpoint.kind or "local"})
    found = model_arguments(spec)
    for name in ("rollout", "inference", "monitor", "notify"):
        found[name] = dump_section(getattr(spec, name))
    found[_ENDPOINT] = dump_endpoint(EndpointSettings(endpoint=served, vertex=spec.vertex))
    return {**found, _OWN_SECTION: found[stage.name]} if stage.name in found else found


def section_of(stage: Stage, parameter: str) -> str:
    """Returns the spec's section that a parameter holds, "" where it holds none."""
    from typing import Literal, get_origin

    from shipway.spec import ModelSpec

    name = stage.name if parameter == _OWN_SECTION else parameter
    field = ModelSpec.model_fields.get(name)
    return name if field and field.annotation is not str and get_origin(field.annotation) is not Literal else ""


def _section(where: str, text: str, name: str) -> str:
    """Checks a section, plain or as a pipeline's parameter holds it, and returns it as the latter."""
    import yaml
    from pydantic import ValidationError

    from shipway.spec import dump_section

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{where}: neither JSON nor YAML: {' '.join(str(error).split())}") from error
    if not isinstance(found, dict | list):
        raise InputError(
            f"{where}: expected the spec's section {name} as JSON or YAML, found {text[:60]!r}; "
            "a file is named with @ before it"
        )
    code = ""
    if isinstance(found, dict) and set(found) == {"section", "code"}:
        found, code = found["section"], str(found["code"])
    try:
        return dump_section(_adapter(name).validate_python(found), code)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or name}: {fault['msg']}" for fault in error.errors()]
        raise InputError(f"{where}: {'; '.join(faults)}") from error


def _endpoint(where: str, text: str) -> str:
    """Checks an endpoint's settings, as JSON or YAML, and returns them as a pipeline's parameter holds them."""
    import yaml

    from shipway.spec import dump_endpoint, load_endpoint

    try:
        return dump_endpoint(load_endpoint(json.dumps(yaml.safe_load(text))))
    except yaml.YAMLError as error:
        raise InputError(f"{where}: neither JSON nor YAML: {' '.join(str(error).split())}") from error
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _adapter(name: str) -> TypeAdapter[Any]:
    from typing import Annotated

    from pydantic import Field, TypeAdapter

    from shipway.spec import ModelSpec

    field = ModelSpec.model_fields[name]
    kind: Any = field.annotation
    if field.discriminator:
        kind = Annotated[kind, Field(discriminator=field.discriminator)]
    return TypeAdapter(kind)


def _json(where: str, text: str, kind: Any) -> Any:
    expected = _JSON_KINDS.get(kind, "an object")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: expected {expected} as JSON, found {text[:60]!r}: {error}") from error
    fits = isinstance(found, int | float) if kind is float else isinstance(found, kind if kind in _JSON_KINDS else dict)
    if not fits or (isinstance(found, bool) and kind is not bool):
        raise InputError(f"{where}: expected {expected} as JSON, found {text[:60]!r}")
    return found


def _content(where: str, name: str) -> str:
    try:
        content = read_bytes(name) if is_remote(name) else Path(name).read_bytes()
        if content is None:
            raise InputError(f"{where}: no such file")
        # Editors end a file with a line end that is no part of the value.
        return content.decode().rstrip("\n")
    except FileNotFoundError as error:
        raise InputError(f"{where}: no such file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"{where}: cannot read it: {error.strerror or error}") from error
