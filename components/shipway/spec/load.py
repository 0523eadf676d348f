"""Reads a spec file; every fault is told with its path in the spec, the line, what was found and what was expected."""

import difflib
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from shipway.errors import InputError, SpecError
from shipway.spec.model import ModelSpec
from shipway.spec.resources import FORMS

Path_ = tuple[str | int, ...]
Document = TypeVar("Document", bound=BaseModel)


def load_spec(path: str | Path, settings: Sequence[str] = ()) -> ModelSpec:
    """Reads and checks a spec.

    Args:
        path: The YAML file.
        settings: Overrides as `train.lr=0.01`, applied before the check.

    Raises:
        InputError: The file is missing or unreadable.
        SpecError: It is not YAML, or not a valid spec; every fault is listed.
    """
    return load_file(path, ModelSpec, "spec", settings)


def load_file(path: str | Path, kind: type[Document], what: str, settings: Sequence[str] = ()) -> Document:
    """Reads and checks a YAML file that a person writes.

    Args:
        path: The file.
        kind: What it holds.
        what: What it is, for messages, as `spec`.
        settings: Overrides as `train.lr=0.01`, applied before the check.

    Raises:
        InputError: The file is missing or unreadable.
        SpecError: It is not YAML, or not valid; every fault is listed.
    """
    file = Path(path)
    try:
        text = file.read_text()
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such {what} file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot read the {what}: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"{file}{line}: not YAML: {problem}") from error
    if not isinstance(values, dict):
        raise SpecError(f"{file}: expected a mapping of sections, found {_shown(values)}")
    lines = _lines(node)
    repeated = [f"{file}:{line}: {_dotted(where)}: given twice" for where, line in _repeated_keys(node)]
    if repeated:
        raise SpecError("\n".join(repeated))
    for setting in settings:
        override(values, setting)
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        faults = [_explain(file, fault, lines, kind) for fault in error.errors()]
        raise SpecError("\n".join(dict.fromkeys("\n".join(faults).splitlines()))) from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes the key `on` for true; a person means the word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def parse_setting(setting: str) -> tuple[list[str], Any]:
    """Splits `train.lr=0.01` into its path and its value, read as YAML.

    Raises:
        SpecError: There is no `=`, or no path before it.
    """
    path, equals, value = setting.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise SpecError(f"--set {setting}: expected SECTION.KEY=VALUE, as train.lr=0.01")
    try:
        parsed = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise SpecError(f"--set {setting}: the value is not YAML") from error
    if isinstance(parsed, str) and not value.lstrip().startswith(("'", '"')):
        # YAML 1.1 takes 1e-3 for text; a person means the number.
        try:
            return keys, float(parsed) if any(char.isdigit() for char in parsed) else parsed
        except ValueError:
            return keys, parsed
    return keys, parsed


def override(values: dict[str, Any], setting: str) -> None:
    """Applies one `train.lr=0.01` to a spec's values, in place.

    Raises:
        SpecError: The setting is malformed or its path leads through something that is no mapping or list.
    """
    keys, value = parse_setting(setting)
    place: Any = values
    for position, key in enumerate(keys):
        last = position == len(keys) - 1
        if isinstance(place, list):
            if not key.isdigit() or int(key) >= len(place):
                raise SpecError(f"--set {setting}: {'.'.join(keys[:position])} has {len(place)} entries, no {key!r}")
            if last:
                place[int(key)] = value
            else:
                place = place[int(key)]
        elif isinstance(place, dict):
            if last:
                place[key] = value
            else:
                place = place.setdefault(key, {})
        else:
            raise SpecError(f"--set {setting}: {'.'.join(keys[:position])} is {_shown(place)}, it has no {key!r}")


def _lines(node: yaml.Node | None, where: Path_ = ()) -> dict[Path_, int]:
    found: dict[Path_, int] = {}
    if node is None:
        return found
    found[where] = node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*where, str(key.value))
            found.update(_lines(value, inner))
            found[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found.update(_lines(value, (*where, index)))
    return found


def _repeated_keys(node: yaml.Node | None, where: Path_ = ()) -> list[tuple[Path_, int]]:
    repeated: list[tuple[Path_, int]] = []
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = str(key.value)
            if name in seen:
                repeated.append(((*where, name), key.start_mark.line + 1))
            seen.add(name)
            repeated += _repeated_keys(value, (*where, name))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            repeated += _repeated_keys(value, (*where, index))
    return repeated


def _explain(file: Path, fault: ErrorDetails, lines: dict[Path_, int], root: type[BaseModel]) -> str:
    # A discriminated union puts its tag into the location; the spec has no such level.
    where = _without_tags(fault["loc"])
    is_key = where[-1:] == (_KEY,)
    where = where[:-1] if is_key else where
    near = where
    while near and near not in lines:
        near = near[:-1]
    prefix = f"{file}:{lines[near]}" if near in lines else str(file)
    message = fault["msg"].removeprefix("Value error, ")
    kind = fault["type"]
    if kind == "extra_forbidden":
        known = _known_keys(where[:-1], fault["loc"], root)
        close = difflib.get_close_matches(str(where[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known here: {', '.join(known)}"
        return f"{prefix}: {_dotted(where)}: unknown key{hint}"
    if kind == "missing":
        return f"{prefix}: {_dotted(where)}: required, and missing"
    if kind == "union_tag_not_found":
        return f"{prefix}: {_dotted(where)}: needs {fault['ctx']['discriminator']}"
    if kind == "value_error":
        known = _known_keys(where, fault["loc"], root)
        told = [_placed(where, line, known) for line in message.splitlines()]
        return "\n".join(f"{_line_of(file, line, lines, prefix)}: {line}" for line in told)
    return f"{prefix}: {_expected(where, fault, message, is_key)}"


def _expected(where: Path_, fault: ErrorDetails, message: str, is_key: bool) -> str:
    """Explains a value, or a mapping's key, of the wrong type or form."""
    if fault["type"] == "literal_error":
        return _choice(where, fault, is_key)
    form = FORMS.get(fault.get("ctx", {}).get("pattern", ""))
    expected = message.replace("Input should be", "expected").replace("String should match", "expected text matching")
    return f"{_dotted(where)}: {f'expected {form}' if form else expected}, found {_shown(fault['input'])}"


def _choice(where: Path_, fault: ErrorDetails, is_key: bool) -> str:
    """Explains a value, or a mapping's key, that is none of those that there are."""
    expected, found = str(fault["ctx"]["expected"]), fault["input"]
    choices = re.findall(r"'([^']*)'", expected)
    same = [choice for choice in choices if choice.lower() == str(found).lower()]
    close = same or difflib.get_close_matches(str(found), choices, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(choices)}"
    if is_key:
        return f"{_dotted(where)}: unknown key; {hint}"
    return f"{_dotted(where)}: expected {expected}, found {_shown(found)}{f'; {hint}' if close else ''}"


def _placed(where: Path_, message: str, known: Sequence[str]) -> str:
    """Puts a section's path before its message, which may begin with the path of a key in it."""
    if not where:
        return message
    own = message.partition(":")[0].partition(".")[0] in known
    return f"{_dotted(where)}{'.' if own else ': '}{message}"


def _line_of(file: Path, message: str, lines: dict[Path_, int], default: str) -> str:
    """Finds the line for a message that begins with its own dotted path."""
    path = tuple(int(key) if key.isdigit() else key for key in message.partition(":")[0].split("."))
    while path:
        if path in lines:
            return f"{file}:{lines[path]}"
        path = path[:-1]
    return default


# What pydantic puts into the location of a mapping's own key.
_KEY = "[key]"
_TAGS = {"split": {"time", "hash", "column"}, "train": {"torch", "sklearn"}}


def _without_tags(location: Path_) -> Path_:
    if len(location) > 1 and location[1] in _TAGS.get(str(location[0]), set()):
        return (location[0], *location[2:])
    return tuple(location)


def _known_keys(where: Path_, location: Path_, root: type[BaseModel]) -> list[str]:
    kind: Any = root
    in_mapping = False
    for key in where:
        if isinstance(key, int) or in_mapping:
            # An entry of a list, or one of a mapping whose keys are the user's: `kind` is what each holds.
            in_mapping = False
            continue
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return []
        fields = {info.alias or name: info.annotation for name, info in kind.model_fields.items()}
        annotation = fields.get(str(key))
        in_mapping = get_origin(annotation) is dict
        options = [option for option in _flat(annotation) if isinstance(option, type) and issubclass(option, BaseModel)]
        tagged = [option for option in options if _tag(option) in location]
        kind = next(iter(tagged or options), None)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return [info.alias or name for name, info in kind.model_fields.items()]
    return []


def _flat(annotation: Any) -> list[Any]:
    inner = get_args(annotation)
    return [annotation] if not inner else [leaf for part in inner for leaf in _flat(part)]


def _tag(option: type[BaseModel]) -> str:
    for name in ("by", "trainer"):
        if name in option.model_fields:
            return str(get_args(option.model_fields[name].annotation)[0])
    return ""


def _dotted(where: Sequence[str | int]) -> str:
    return ".".join(map(str, where)) or "spec"


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} ({type(value).__name__})"


def json_schema() -> dict[str, Any]:
    """Returns the spec's JSON Schema, for editors."""
    schema = TypeAdapter(ModelSpec).json_schema(by_alias=True)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "Shipway model spec"}
