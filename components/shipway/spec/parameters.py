"""Spec sections as pipeline parameters: one JSON string a section, so that a step depends on nothing else.

A section that names the user's own files also carries the digest of their contents (`code`), so that a cached step is
taken again only while its code is the same.
"""

import json
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from shipway.errors import InputError
from shipway.spec.model import (
    ColumnSplit,
    GateRule,
    HashSplit,
    SklearnTrain,
    SplitSection,
    TimeSplit,
    TorchTrain,
    TrainSection,
)
from shipway.spec.rollout import EndpointSettings

S = TypeVar("S", bound=BaseModel)

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
        body: object = [rule.model_dump(mode="json", exclude_none=True, by_alias=True) for rule in section]
    else:
        body = section.model_dump(mode="json", exclude_none=True, by_alias=True)
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


def dump_endpoint(settings: EndpointSettings) -> str:
    """Returns an endpoint's settings as the JSON string that the pipelines' parameter `endpoint` holds.

    Apostrophes are escaped: kfp 2.17's local runner puts the text between apostrophes to compare it with "", and takes
    a comparison that it cannot read for false.
    """
    body = settings.model_dump(mode="json", exclude_none=True, by_alias=True)
    return json.dumps(body, sort_keys=True).replace("'", "\\u0027")


def load_endpoint(parameter: str) -> EndpointSettings:
    """Reads an endpoint's settings back from a pipeline parameter.

    Raises:
        InputError: There are none ("" means nowhere), they are malformed, or name no kind.
    """
    if not parameter:
        raise InputError("endpoint: nowhere; the spec's endpoint.kind says where the model is served")
    try:
        settings = EndpointSettings.model_validate_json(parameter)
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, ("endpoint", *fault["loc"])))
        raise InputError(f"{where}: no settings of an endpoint: {fault['msg']}") from error
    if settings.endpoint.kind is None:
        raise InputError("endpoint: its settings name no kind; expected local, kserve or vertex")
    return settings


def _body(parameter: str) -> str:
    return json.dumps(json.loads(parameter)["section"])
