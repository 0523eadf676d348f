"""GitHub's webhooks.

https://docs.github.com/webhooks/webhook-events-and-payloads. `X-GitHub-Event` says what it is. A delivery that is sent
again has the same body and is the same event; `X-GitHub-Delivery` is not asked, because the signature does not cover
it. Only a `repository_dispatch`, which may say the same twice and mean it, is told apart by it, unless its
`client_payload` has an `id`.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from shipway.serving.limits import Refusal
from shipway.triggers.incoming import Incoming, Kind
from shipway.triggers.sources.call import Call, Reading, known_labels, line, mapping, text
from shipway.triggers.store import Delivery, bounded_fingerprint

EVENT = "x-github-event"
_DELIVERY = "x-github-delivery"
# What says that code has changed; everything else asks for something.
_CODE = ("push", "release", "create", "delete", "pull_request", "registry_package", "package")


def read(call: Call, reading: Reading) -> Sequence[Delivery]:
    """Reads one webhook; a `ping` is none.

    Raises:
        Refusal: It is not GitHub's.
    """
    event = call.headers.get(EVENT, "")
    if not event.replace("_", "").isalnum() or not event.isascii() or len(event) > 60:
        raise Refusal(400, "expected the header X-GitHub-Event with an event's name")
    body = mapping(call.json("application/json"), "the body")
    if event == "ping":
        return []
    kind: Kind = "code" if event in _CODE else "request"
    labels = {"event": event, **_labels(event, body)}
    return [
        Delivery(
            Incoming(
                source=reading.source,
                kind=kind,
                fingerprint=_fingerprint(event, call, body),
                labels=known_labels(labels),
                payload=body,
                title=line(_title(event, labels, body)),
                # A branch that is gone has no code to train on.
                resolved=event == "delete" or (event == "push" and body.get("deleted") is True),
            )
        )
    ]


def _fingerprint(event: str, call: Call, body: dict[str, Any]) -> str:
    if event == "repository_dispatch":
        payload = body.get("client_payload")
        own = payload.get("id") if isinstance(payload, dict) else None
        if isinstance(own, (str, int)) and not isinstance(own, bool) and own != "":
            return bounded_fingerprint(f"{event} {_at(body, 'repository', 'full_name')} {own}")
        delivery = call.headers.get(_DELIVERY, "")
        if delivery:
            return bounded_fingerprint(f"{event} {delivery}")
    return f"{event} sha256:{hashlib.sha256(call.body).hexdigest()}"


def _labels(event: str, body: dict[str, Any]) -> dict[str, str]:
    reference = text(body.get("ref"), "ref")
    labels = {
        "action": text(body.get("action"), "action"),
        "repository": _at(body, "repository", "full_name"),
        "sender": _at(body, "sender", "login"),
        "environment": body["environment"] if isinstance(body.get("environment"), str) else "",
    }
    if event in ("push", "create", "delete"):
        labels["ref"] = reference
        for prefix, name in (("refs/heads/", "branch"), ("refs/tags/", "tag")):
            if reference.startswith(prefix):
                labels[name] = reference.removeprefix(prefix)
        labels["sha"] = text(body.get("after"), "after")
    if event == "push" and not reference:
        raise Refusal(400, "ref: expected text, found none")
    if event == "release":
        labels["tag"] = _at(body, "release", "tag_name")
    return labels


def _title(event: str, labels: dict[str, str], body: dict[str, Any]) -> str:
    words = [event, labels["action"], labels["repository"], labels.get("branch") or labels.get("tag") or ""]
    message = _at(body, "head_commit", "message").partition("\n")[0] if event == "push" else ""
    return " ".join(word for word in words if word) + (f": {message}" if message else "")


def _at(body: dict[str, Any], outer: str, inner: str) -> str:
    found = body.get(outer)
    value = found.get(inner) if isinstance(found, dict) else None
    return value if isinstance(value, str) else ""
