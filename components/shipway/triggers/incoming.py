"""What a webhook said, in one form whatever its source."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["alert", "data", "code", "request"]


@dataclass(frozen=True, slots=True)
class Incoming:
    """One alert or event.

    Attributes:
        source: Name of the source in the routes file, which is the last part of the hook's path.
        kind: `alert` (something is wrong), `data` (rows have come), `code` (a push or a release), `request` (somebody
            asks for it).
        fingerprint: The same for the same event, however often it is delivered; unique within the source.
        labels: What routes match on: text by name.
        payload: The event as it came, as JSON values; what parameters are taken from.
        title: It in one line, for people.
        resolved: Whether it says that something is over; such a one is recorded and starts nothing.
    """

    source: str
    kind: Kind
    fingerprint: str
    labels: Mapping[str, str]
    payload: Mapping[str, Any]
    title: str
    resolved: bool = False
