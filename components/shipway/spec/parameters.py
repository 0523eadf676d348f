"""Spec sections as pipeline parameters: one JSON string a section, so that a step depends on nothing else.

A section that names the user's own files also carries the digest of their contents (`code`), so that a cached step is
taken again only while its code is the same.
"""

import json
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter

from shipway.spec.model import (
    ColumnSplit,
    GateRule,
    HashSplit,
    Section,
    SklearnTrain,
    SplitSection,
    TimeSplit,
    TorchTrain,
    TrainSection,
)

S = TypeVar("S", bound=Section)

_SPLIT: TypeAdapter[TimeSplit | HashSplit | ColumnSplit] = TypeAdapter(SplitSection)
_TRAIN: TypeAdapter[TorchTrain | SklearnTrain] = TypeAdapter(TrainSection)
_GATES: TypeAdapter[list[GateRule]] = TypeAdapter(list[GateRule])


def dump_section(section: BaseModel | list[GateRule], code: str = "") -> str:
    """Returns a section as the JSON string that a pipeline parameter holds.

    Args:
        section: The section, or the list of gate rules.
        code: Digest of the user's files that the section names; "" when it names none.
    """
    if isinstance(section, list):
        body: object = [rule.model_dump(mode="json", exclude_none=True) for rule in section]
    else:
        body = section.model_dump(mode="json", exclude_none=True)
    return json.dumps({"section": body, "code": code}, sort_keys=True)


def load_section(kind: type[S], parameter: str) -> S:
    """Reads a section back from a pipeline parameter."""
    return kind.model_validate_json(_body(parameter))


def load_split(parameter: str) -> TimeSplit | HashSplit | ColumnSplit:
    """Reads the split section back from a pipeline parameter."""
    return _SPLIT.validate_json(_body(parameter))


def load_train(parameter: str) -> TorchTrain | SklearnTrain:
    """Reads the train section back from a pipeline parameter."""
    return _TRAIN.validate_json(_body(parameter))


def load_gates(parameter: str) -> list[GateRule]:
    """Reads the gate rules back from a pipeline parameter."""
    return _GATES.validate_json(_body(parameter))


def _body(parameter: str) -> str:
    return json.dumps(json.loads(parameter)["section"])
