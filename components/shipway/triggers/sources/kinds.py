"""The languages that a source may speak, and the labels that the routes file adds to what it says."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from shipway.errors import InputError
from shipway.serving.limits import Refusal
from shipway.triggers.expression import text_of
from shipway.triggers.sources import alertmanager, cloudevents, generic, github
from shipway.triggers.sources.call import Call, Read, Reading, known_labels
from shipway.triggers.store import Delivery

KINDS: Mapping[str, Read] = {
    "alertmanager": alertmanager.read,
    "cloudevents": cloudevents.read,
    "github": github.read,
    "json": generic.read,
}


def read_call(kind: str, call: Call, reading: Reading) -> Sequence[Delivery]:
    """Turns a request that was let in into events.

    Args:
        kind: A name of `KINDS`.
        call: The request.
        reading: How its source is read.

    Raises:
        Refusal: It is malformed, or an expression does not fit it.
    """
    try:
        found = KINDS[kind](call, reading)
        return [_labelled(one, reading) for one in found] if reading.labels else found
    except InputError as error:
        raise Refusal(400, str(error)) from error


def _labelled(delivery: Delivery, reading: Reading) -> Delivery:
    incoming = delivery.incoming
    found = {name: text_of(one.find(incoming.payload)) for name, one in (reading.labels or {}).items()}
    return replace(delivery, incoming=replace(incoming, labels={**incoming.labels, **known_labels(found)}))
