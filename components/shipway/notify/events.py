"""Sends an alert as a CloudEvent, to the trigger service or any other receiver.

CloudEvents 1.0, JSON format, structured mode over HTTP (https://github.com/cloudevents/spec, v1.0.2).
"""

from __future__ import annotations

import datetime as dt
from typing import Any

from shipway.notify.alerts import Alert
from shipway.notify.client import ask
from shipway.notify.delivery import Deadline, DeliveryError, persist
from shipway.notify.secrets import token
from shipway.spec.watch import EventSink

CONTENT_TYPE = "application/cloudevents+json"
TYPE_PREFIX = "dev.shipway."


def cloud_event(alert: Alert) -> dict[str, Any]:
    """Returns an alert as a CloudEvent: its id is the same for the same event, however often it is sent."""
    moment = dt.datetime.fromtimestamp(alert.time, dt.UTC)
    return {
        "specversion": "1.0",
        "id": alert.identity,
        "type": f"{TYPE_PREFIX}{alert.kind}",
        "source": f"/shipway/models/{alert.name}",
        "subject": alert.name,
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "datacontenttype": "application/json",
        "data": {
            "model": alert.name,
            "kind": alert.kind,
            "cause": alert.cause,
            "severity": alert.severity,
            "text": alert.text,
            "key": alert.key,
            "facts": alert.plain()["facts"],
        },
    }


def send_event(alert: Alert, sink: EventSink, deadline: Deadline) -> str:
    """Sends an alert to an event sink.

    Args:
        alert: What happened.
        sink: The spec's section notify.events.
        deadline: When it is too late.

    Raises:
        DeliveryError: The sink did not take it.
    """
    bearer = token(sink.token, deadline) if sink.token else ""
    event = cloud_event(alert)

    def send() -> int:
        return ask("POST", sink.url, deadline, token=bearer, headers={"Content-Type": CONTENT_TYPE}, body=event).status

    try:
        return f"took the event ({persist(send, deadline)})"
    except DeliveryError as error:
        if sink.token and not bearer:
            raise DeliveryError(f"{error} (variable {sink.token} is not set, so it got no token)") from error
        raise
