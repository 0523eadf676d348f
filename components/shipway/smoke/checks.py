"""The requests that a deployed model has to answer rightly, over real HTTP.

What is right is what the package itself predicts, loaded anew in this process from bytes of the same digest.
"""

import itertools
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from shipway.endpoints.client import Answer, UnreachableError, call, json_bytes
from shipway.endpoints.protocol import Endpoint
from shipway.errors import ShipwayError
from shipway.lineage.documents import Deployment
from shipway.model.package import Package
from shipway.model.signature import InputColumn

CANONICAL_REQUESTS = 20
TOLERANCE = 1e-6
_BODY_BYTES = 8 << 20
_GIVE_UP_AFTER = 3
_UNSEEN = "shipway-smoke-unseen-category"
_DATATYPES = {"number": "FP64", "boolean": "BOOL", "category": "BYTES"}
_WRONG: dict[str, Any] = {"number": "not a number", "boolean": "maybe", "category": [1, 2]}


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its outcome.

    Attributes:
        name: What was asked.
        expected: What would be right.
        found: What was found, where that is something else; "" otherwise.
    """

    name: str
    expected: str
    found: str = ""

    @property
    def passed(self) -> bool:
        """Whether what was found is right."""
        return not self.found


def run_checks(deployment: Deployment, package: Package, endpoint: Endpoint) -> list[Check]:
    """Asks a deployed model and judges every answer.

    Args:
        deployment: What is deployed, and where it answers.
        package: The package that was deployed.
        endpoint: The endpoint, which is asked itself where no URL takes both protocols.

    Returns:
        Every check, failed ones too. A server that does not answer several times in a row is asked no more.
    """
    checks: list[Check] = []
    silent = 0
    talk = _Conversation(deployment, package, endpoint)
    for name, expected, judge in _directed_plan(talk) if deployment.endpoint == "vertex" else _plan(deployment, talk):
        try:
            found = judge()
            silent = 0
        except UnreachableError as error:
            found = str(error)
            silent += 1
        checks.append(Check(name, expected, found))
        if silent == _GIVE_UP_AFTER:
            checks.append(Check("all further checks", "an answer", "not run: the server does not answer"))
            break
    return checks


Plan = Iterator[tuple[str, str, Callable[[], str]]]


def _directed_plan(talk: "_Conversation") -> Plan:
    """Vertex hands on the V1 protocol and nothing else, and none of the server's headers."""
    right = f"the package's own prediction within {TOLERANCE:g}"
    rows = list(itertools.islice(itertools.cycle(range(len(talk.rows))), CANONICAL_REQUESTS))
    for number, row in enumerate(rows, start=1):
        yield f"canonical request {number}", right, partial(talk.directed, [row])
    yield f"all {len(talk.rows)} golden rows at once", right, partial(talk.directed, list(range(len(talk.rows))))
    for name, bad in talk.bad_rows():
        yield name, "a 4xx", partial(talk.directed_refused, bad)


def _plan(deployment: Deployment, talk: "_Conversation") -> Plan:
    right = f"the package's own prediction within {TOLERANCE:g}, version {deployment.version} in the headers"
    yield "readiness", f"version {deployment.version}, ready", talk.ready
    rows = list(itertools.islice(itertools.cycle(range(len(talk.rows))), CANONICAL_REQUESTS))
    for number, row in enumerate(rows, start=1):
        yield f"canonical request {number}, V1", right, partial(talk.v1, [row])
    for number, row in enumerate(rows, start=1):
        yield f"canonical request {number}, V2", right, partial(talk.v2, [row])
    everything = list(range(len(talk.rows)))
    yield f"all {len(everything)} golden rows at once, V1", right, partial(talk.v1, everything)
    yield f"all {len(everything)} golden rows at once, V2", right, partial(talk.v2, everything)
    for name, body in talk.bad_bodies():
        yield name, "a 4xx with a reason", partial(talk.refused, body)
    yield "oversized body", "413 with a reason", talk.oversized
    yield "unknown model", "404 with a reason", talk.unknown_model
    for column in talk.inputs:
        if column.kind == "category":
            yield f"unknown category in {column.name}", "200 and a prediction", partial(talk.unseen, column)
            break
    yield "readiness after all that", f"version {deployment.version}, ready", talk.ready


class _Conversation:
    """Requests to one deployment; every method returns what is wrong with the answer, or ""."""

    def __init__(self, deployment: Deployment, package: Package, endpoint: Endpoint) -> None:
        self._deployment = deployment
        self._endpoint = endpoint
        self._info = package.info
        self._url = deployment.url
        golden = package.golden()
        self.inputs: list[InputColumn] = list(package.info.inputs)
        self.rows = list(golden.select(column.name for column in self.inputs).iter_rows(named=True))
        self._own: list[list[float]] = package.predict(golden).tolist()

    def ready(self) -> str:
        answer = call("GET", f"{self._url}/v2/models/{self._deployment.served_as}/ready")
        return _status(answer, 200) or self._headers(answer)

    def v1(self, at: list[int]) -> str:
        answer = self._predict({"instances": [self.rows[row] for row in at]})
        return (
            _status(answer, 200) or self._headers(answer, [self.rows[row] for row in at]) or self._v1_body(answer, at)
        )

    def directed(self, at: list[int]) -> str:
        answer = self._endpoint.predict(self._deployment.revision, [self.rows[row] for row in at])
        return _status(answer, 200) or self._v1_body(answer, at)

    def directed_refused(self, row: dict[str, Any]) -> str:
        answer = self._endpoint.predict(self._deployment.revision, [row])
        return "" if answer.status in range(400, 500) else f"status {answer.status}: {answer.reason()}"

    def _v1_body(self, answer: Answer, at: list[int]) -> str:
        body = answer.json()
        predictions = body.get("predictions") if isinstance(body, dict) else None
        if not isinstance(predictions, list) or len(predictions) != len(at):
            return f"not {len(at)} predictions: {answer.reason()}"
        return next(filter(None, map(self._v1_fault, predictions, (self._own[row] for row in at))), "")

    def v2(self, at: list[int]) -> str:
        rows = [self.rows[row] for row in at]
        answer = self._infer(rows)
        if fault := _status(answer, 200) or self._headers(answer, rows):
            return fault
        body = answer.json()
        try:
            outputs = {entry["name"]: entry for entry in body["outputs"]}
            found, identity = outputs["prediction"], (body["id"], body["model_name"], body["model_version"])
            data, shape, datatype = found["data"], found["shape"], found["datatype"]
            labels = outputs["label"]["data"] if self._info.classes else []
        except (TypeError, KeyError):
            return f"not an Open Inference response: {answer.reason()}"
        if identity != ("smoke", self._deployment.served_as, self._deployment.version):
            return f"id, model name and version are {identity}"
        own = [self._own[row] for row in at]
        right = datatype == "FP64" and shape == [len(at), len(own[0])]
        if not (right and _close(data, [value for row in own for value in row])):
            return f"predictions {datatype} {shape} {_short(data)}, expected {_short(own)}"
        if self._info.classes and not (len(labels) == len(at) and all(map(self._is_label, labels, own))):
            return f"labels {_short(labels)} do not go with {_short(own)}"
        return ""

    def refused(self, body: bytes) -> str:
        return _refusal(self._post(body), range(400, 500))

    def oversized(self) -> str:
        limits = call("GET", f"{self._url}/v2").json()
        try:
            size = int(limits["limits"]["body_bytes"])
        except (TypeError, KeyError, ValueError):
            size = _BODY_BYTES
        return _refusal(self._post(b'{"instances": [' + b" " * size + b"]}"), range(413, 414))

    def unknown_model(self) -> str:
        body = json_bytes({"instances": self.rows[:1]})
        return _refusal(call("POST", f"{self._url}/v1/models/no-such-model:predict", body), range(404, 405))

    def unseen(self, column: InputColumn) -> str:
        row = {**self.rows[0], column.name: _UNSEEN}
        answer = self._predict({"instances": [row]})
        if fault := _status(answer, 200) or self._headers(answer, [row]):
            return fault
        body = answer.json()
        return (
            ""
            if isinstance(body, dict) and len(body.get("predictions", [])) == 1
            else f"no prediction: {answer.reason()}"
        )

    def bad_bodies(self) -> Iterator[tuple[str, bytes]]:
        """Yields what must be refused, each with its name."""
        row = self.rows[0]
        yield "empty body", b""
        yield "no rows", json_bytes({"instances": []})
        yield "broken JSON", json_bytes({"instances": [row]})[:-3]
        yield "NaN in the JSON", b'{"instances": [NaN]}'
        yield "wrong top-level shape", json_bytes([row])
        for name, bad in self.bad_rows():
            yield name, json_bytes({"instances": [bad]})

    def bad_rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields rows that must be refused, each with its name."""
        row, first = self.rows[0], self.inputs[0]
        yield f"missing feature {first.name}", {name: value for name, value in row.items() if name != first.name}
        yield f"wrong type in {first.name}", {**row, first.name: _WRONG[first.kind]}
        yield "unknown feature", {**row, "shipway-smoke-no-such-feature": 1}

    def _predict(self, request: dict[str, Any]) -> Answer:
        return self._post(json_bytes(request))

    def _post(self, body: bytes) -> Answer:
        return call("POST", f"{self._url}/v1/models/{self._deployment.served_as}:predict", body)

    def _infer(self, rows: list[dict[str, Any]]) -> Answer:
        tensors = [
            {
                "name": column.name,
                "shape": [len(rows)],
                "datatype": _DATATYPES[column.kind],
                "data": [row[column.name] for row in rows],
            }
            for column in self.inputs
        ]
        url = f"{self._url}/v2/models/{self._deployment.served_as}/infer"
        return call("POST", url, json_bytes({"id": "smoke", "inputs": tensors}))

    def _headers(self, answer: Answer, rows: Sequence[dict[str, Any]] = ()) -> str:
        answered = answer.headers.get("x-model-version")
        if rows and answered not in (None, self._deployment.version):
            # Where a revision fails, the one before it answers instead; the reason is to be had from itself.
            return f"version {answered} answered instead{self._own_words(rows)}"
        for header, expected in (
            ("x-model-name", self._deployment.served_as),
            ("x-model-version", self._deployment.version),
            ("x-model-digest", self._deployment.digest),
        ):
            if (found := answer.headers.get(header)) != expected:
                return f"header {header} is {found!r}, expected {expected!r}"
        return ""

    def _own_words(self, rows: Sequence[dict[str, Any]]) -> str:
        try:
            answer = self._endpoint.predict(self._deployment.revision, rows)
        except ShipwayError as error:
            return f": {error}"
        told = "" if answer.status == 200 else f": {answer.reason()}"
        return f"; asked itself, version {self._deployment.version} answers with status {answer.status}{told}"

    def _v1_fault(self, found: Any, own: list[float]) -> str:
        classes = self._info.classes
        if not classes:
            right = isinstance(found, dict) and found.keys() == {"value"} and _close([found["value"]], own)
            return "" if right else f"{_short(found)}, expected value {_short(own)}"
        keys = [name if isinstance(name, str) else json.dumps(name) for name in classes]
        if not isinstance(found, dict) or found.keys() != {"label", "probability", "probabilities"}:
            return f"not a prediction of a class: {_short(found)}"
        named = found["probabilities"]
        if not isinstance(named, dict) or list(named) != keys or not _close(list(named.values()), own):
            return f"probabilities {_short(named)}, expected {_short(dict(zip(keys, own, strict=True)))}"
        if not self._is_label(found["label"], own):
            return f"label {found['label']!r} does not go with {_short(named)}"
        told = own[1] if self._info.task == "binary" else max(own)
        return (
            "" if _close([found["probability"]], [told]) else f"probability {found['probability']!r}, expected {told}"
        )

    def _is_label(self, label: Any, own: list[float]) -> bool:
        # Where two classes are as good as equal, either will do.
        pairs = zip(self._info.classes, own, strict=True)
        return any(type(label) is type(name) and label == name and p >= max(own) - TOLERANCE for name, p in pairs)


def _status(answer: Answer, expected: int) -> str:
    return "" if answer.status == expected else f"status {answer.status}: {answer.reason()}"


def _refusal(answer: Answer, statuses: range) -> str:
    if answer.status not in statuses:
        return f"status {answer.status}: {answer.reason()}"
    body = answer.json()
    reasoned = isinstance(body, dict) and isinstance(body.get("error"), str) and body["error"]
    return "" if reasoned else f"status {answer.status} without a reason: {answer.reason()}"


def _close(found: Any, expected: list[float]) -> bool:
    return (
        isinstance(found, list)
        and len(found) == len(expected)
        and all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in found)
        and all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in zip(found, expected, strict=True))
    )


def _short(value: Any) -> str:
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 160 else shown[:157] + "..."
