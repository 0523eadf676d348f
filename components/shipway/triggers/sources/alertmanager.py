"""Alertmanager's webhook, version 4 of its format: one event for each alert of a notification.

https://prometheus.io/docs/alerting/latest/configuration/#webhook_config. An alert that goes on firing is sent again and
again, with the same beginning: it is the same event. That it is over is an event of its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from shipway.serving.limits import Refusal
from shipway.triggers.incoming import Incoming
from shipway.triggers.sources.call import Call, Reading, known_labels, line, mapping, text, texts
from shipway.triggers.store import Delivery, bounded_fingerprint

_MOST = 1000
# What the alerts have in common is kept with each of them.
_MOST_COPIED = 16 << 20
_GROUP = ("receiver", "groupKey", "groupLabels", "commonLabels", "commonAnnotations", "externalURL")

_TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "required": ["alerts"],
    "properties": {
        "version": {"type": "string"},
        "receiver": {"type": "string"},
        "alerts": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": ["status", "labels", "startsAt"],
                "properties": {
                    "status": {"enum": ["firing", "resolved"]},
                    "labels": _TEXTS,
                    "annotations": _TEXTS,
                    "startsAt": {"type": "string", "minLength": 1},
                    "fingerprint": {"type": "string"},
                },
            },
        },
    },
}
"""What a notification looks like, as a JSON Schema."""


def read(call: Call, reading: Reading) -> Sequence[Delivery]:
    """Reads a notification.

    Raises:
        Refusal: It is not one, or has more than 1,000 alerts, or more in common than can be kept with each.
    """
    body = mapping(call.json(), "the body")
    found = body.get("alerts")
    if not isinstance(found, list) or not found:
        raise Refusal(400, "alerts: expected a list of alerts, as Alertmanager's webhook has it")
    if len(found) > _MOST:
        raise Refusal(413, f"alerts: at most {_MOST} at once, found {len(found)}; see max_alerts of the receiver")
    group = {name: body[name] for name in _GROUP if name in body}
    if len(orjson.dumps(group)) * len(found) > _MOST_COPIED:
        raise Refusal(413, f"what the {len(found)} alerts have in common is too large; see max_alerts of the receiver")
    return [
        _alert(mapping(one, f"alerts[{place}]"), group, f"alerts[{place}]", reading) for place, one in enumerate(found)
    ]


def _alert(one: dict[str, Any], group: dict[str, Any], where: str, reading: Reading) -> Delivery:
    labels = texts(one.get("labels"), f"{where}.labels")
    annotations = texts(one.get("annotations") or {}, f"{where}.annotations")
    status = text(one.get("status"), f"{where}.status", required=True)
    if status not in ("firing", "resolved"):
        raise Refusal(400, f"{where}.status: expected firing or resolved, found {status[:40]!r}")
    # Older ones send no fingerprint; theirs is made of the labels as well.
    name = (
        text(one.get("fingerprint"), f"{where}.fingerprint")
        or orjson.dumps(labels, option=orjson.OPT_SORT_KEYS).decode()
    )
    begun = text(one.get("startsAt"), f"{where}.startsAt", required=True)
    words = annotations.get("summary") or annotations.get("description") or annotations.get("message") or ""
    alert_name = labels.get("alertname", "alert")
    return Delivery(
        Incoming(
            source=reading.source,
            kind="alert",
            fingerprint=bounded_fingerprint(f"{name} {begun} {status}"),
            labels=known_labels({**labels, "status": status}),
            payload={**group, **one},
            title=line(f"{alert_name}: {words}" if words else alert_name),
            resolved=status == "resolved",
        )
    )
