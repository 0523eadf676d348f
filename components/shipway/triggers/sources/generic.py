"""Any JSON: what it means is said by expressions in the routes file."""

import hashlib
from collections.abc import Sequence

from shipway.serving.limits import Refusal
from shipway.triggers.expression import text_of
from shipway.triggers.incoming import Incoming
from shipway.triggers.sources.call import Call, Reading, line, mapping
from shipway.triggers.store import Delivery, bounded_fingerprint


def read(call: Call, reading: Reading) -> Sequence[Delivery]:
    """Reads one event.

    Raises:
        Refusal: The body is not an object, or the fingerprint's expression finds nothing in it.
    """
    body = mapping(call.json(), "the body")
    fingerprint = "sha256:" + hashlib.sha256(call.body).hexdigest()
    if reading.fingerprint is not None:
        fingerprint = text_of(reading.fingerprint.find(body))
        if not fingerprint:
            raise Refusal(400, f"the fingerprint, {reading.fingerprint.text}, finds nothing in the body")
    title = text_of(reading.title.find(body)) if reading.title is not None else ""
    return [
        Delivery(
            Incoming(
                source=reading.source,
                kind=reading.event or "request",
                fingerprint=bounded_fingerprint(fingerprint),
                labels={},
                payload=body,
                title=line(title or f"{reading.event or 'request'} from {reading.source}"),
            )
        )
    ]
