"""CloudEvents 1.0 over HTTP: structured, batched and binary.

https://github.com/cloudevents/spec, `spec.md`, `json-format.md` and `bindings/http-protocol-binding.md` (v1.0.2). An
event is known by its `source` and `id`. Those of Shipway itself (`dev.shipway.<kind>`) also say what a model's last
check found, or which version is live; those of an object store say that rows have come.
"""

import datetime as dt
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from shipway.serving.limits import Refusal
from shipway.triggers.expression import text_of
from shipway.triggers.incoming import Incoming, Kind
from shipway.triggers.limits import read_json
from shipway.triggers.sources.call import Call, Reading, known_labels, line, mapping, text
from shipway.triggers.store import Delivery, Fact, bounded_fingerprint

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
OWN = "dev.shipway."
_MOST = 1000
_ATTRIBUTE = re.compile(r"[a-z0-9]{1,40}")
_OWN_LABELS = ("model", "kind", "cause", "severity")
_OWN_FACTS = ("version", "decision", "since", "until", "run")

_NAMED = {"type": "string", "minLength": 1}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": _NAMED,
        "source": _NAMED,
        "type": _NAMED,
        "subject": {"type": "string"},
        "time": {"type": "string", "format": "date-time"},
        "data": {},
    },
    "propertyNames": {"pattern": "^([a-z0-9]{1,40}|data_base64)$"},
}
"""What a structured event looks like, as a JSON Schema."""


def read(call: Call, reading: Reading) -> Sequence[Delivery]:
    """Reads one event, or a batch.

    Raises:
        Refusal: It is none; or it is binary, while a signature answers for the body alone.
    """
    if call.media_type == BATCH:
        found = call.json(BATCH)
        if not isinstance(found, list):
            raise Refusal(400, "the body: expected a list of events")
        if len(found) > _MOST:
            raise Refusal(413, f"at most {_MOST} events at once, found {len(found)}")
        return [_delivery(_checked(one, f"events[{place}]"), reading) for place, one in enumerate(found)]
    if call.media_type == STRUCTURED:
        return [_delivery(_checked(call.json(STRUCTURED), "event"), reading)]
    if "ce-specversion" in call.headers:
        if call.signed:
            raise Refusal(400, "a signed event has to be structured: the signature does not cover the headers ce-*")
        return [_delivery(_checked(_binary(call), "event"), reading)]
    raise Refusal(415, f"expected content type {STRUCTURED} or {BATCH}, or the headers ce-id, ce-source, ...")


def _binary(call: Call) -> dict[str, Any]:
    event: dict[str, Any] = {
        name.removeprefix("ce-"): unquote(value) for name, value in call.headers.items() if name.startswith("ce-")
    }
    if any("\0" in value for value in event.values()):
        raise Refusal(400, "a header ce-* has NUL in it")
    if not call.body:
        return event
    if call.media_type == "application/json" or call.media_type.endswith("+json"):
        return {**event, "datacontenttype": call.media_type, "data": read_json(call.body, call.depth)}
    raise Refusal(415, f"data of content type {call.media_type[:100] or 'none'}: expected application/json")


def _checked(value: Any, where: str) -> dict[str, Any]:
    event = mapping(value, where)
    for name in event:
        if name != "data_base64" and not _ATTRIBUTE.fullmatch(name):
            raise Refusal(400, f"{where}: an attribute is named by lower-case letters and digits, found {name[:60]!r}")
    version = event.get("specversion")
    if version != "1.0":
        raise Refusal(400, f"{where}.specversion: expected 1.0, found {str(version)[:20]!r}")
    for name in ("id", "source", "type"):
        text(event.get(name), f"{where}.{name}", required=True)
    text(event.get("subject"), f"{where}.subject")
    _moment(event, where)
    return event


def _delivery(event: dict[str, Any], reading: Reading) -> Delivery:
    kind_of_event: str = event["type"]
    labels = {"type": kind_of_event, "source": event["source"], "subject": event.get("subject") or ""}
    data = event["data"] if isinstance(event.get("data"), dict) else {}
    title = f"{kind_of_event} of {event.get('subject') or event['source']}"
    kind: Kind = "alert"
    facts: list[Fact] = []
    if kind_of_event.startswith(OWN):
        labels.update(_own_labels(data))
        title = str(data.get("text") or title)
        facts = _facts(kind_of_event.removeprefix(OWN), data, _moment(event, "event"))
    elif _is_new_object(kind_of_event.lower()):
        kind = "data"
        labels.update(_object_labels(data))
    return Delivery(
        Incoming(
            source=reading.source,
            kind=reading.event or kind,
            fingerprint=bounded_fingerprint(f"{event['source']} {event['id']}"),
            labels=known_labels(labels),
            payload=event,
            title=line(title),
        ),
        facts,
    )


def _moment(event: Mapping[str, Any], where: str) -> float:
    given = text(event.get("time"), f"{where}.time")
    now = time.time()
    if not given:
        return now
    try:
        moment = dt.datetime.fromisoformat(given)
        if moment.tzinfo is not None:
            # A sender whose clock is ahead must not be believed for longer than others.
            return min(moment.timestamp(), now)
    except (ValueError, OverflowError):
        pass
    raise Refusal(400, f"{where}.time: expected a moment as 2026-01-31T12:00:00Z, found {given[:40]!r}")


def _own_labels(data: Mapping[str, Any]) -> dict[str, str]:
    facts = data.get("facts")
    known = facts if isinstance(facts, dict) else {}
    found = {name: data.get(name) for name in _OWN_LABELS} | {name: known.get(name) for name in _OWN_FACTS}
    return {name: text_of(value) for name, value in found.items() if not isinstance(value, (dict, list))}


def _is_new_object(kind: str) -> bool:
    """Tells whether it is Google Cloud Storage's, Azure's or (however it became a CloudEvent) S3's type."""
    if kind in ("google.cloud.storage.object.v1.finalized", "microsoft.storage.blobcreated"):
        return True
    return "s3" in kind and "objectcreated" in kind.replace(" ", "").replace(".", "").replace("_", "")


def _object_labels(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns where the object is: GCS and Azure say it at the top, S3 under `detail` or `s3`."""
    inner = next((data[name] for name in ("detail", "s3") if isinstance(data.get(name), dict)), data)
    bucket, thing = inner.get("bucket"), inner.get("object")
    named = thing if isinstance(thing, dict) else {}
    found = {
        "bucket": bucket.get("name") if isinstance(bucket, dict) else bucket,
        "object": named.get("key") or inner.get("name") or inner.get("url"),
        "etag": named.get("etag")
        or named.get("eTag")
        or inner.get("md5Hash")
        or inner.get("etag")
        or inner.get("eTag"),
    }
    return {name: value for name, value in found.items() if isinstance(value, str)}


def _facts(kind: str, data: Mapping[str, Any], moment: float) -> list[Fact]:
    """Returns what an event of ours says of its model; a rollback puts the version before, and its baseline, back."""
    told = data.get("facts")
    model = data.get("model")
    if not isinstance(told, dict) or not isinstance(model, str) or not model:
        return []
    version = told.get("stable" if kind in ("rolled_back", "halted") else "version")
    if isinstance(version, bool) or not isinstance(version, (str, int)) or version == "":
        return []

    def fact(kind: str, figures: Any) -> Fact:
        return Fact(model[:128], kind, str(version)[:128], figures if isinstance(figures, dict) else {}, moment)

    match kind:
        case "checked" | "drift":
            return [fact("check", told.get("gauges"))]
        case "live":
            return [fact("live", {}), fact(f"baseline {str(version)[:128]}", told.get("baseline"))]
        case "rolled_back" | "halted":
            return [fact("live", {})]
        case _:
            return []
