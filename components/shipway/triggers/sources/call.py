"""A request to a hook, as the sources read it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipway.serving.limits import Refusal
from shipway.triggers.expression import Expression
from shipway.triggers.incoming import Kind
from shipway.triggers.limits import read_json
from shipway.triggers.store import Delivery

_TITLE = 300
_LABEL = 1000
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class Call:
    """A request that was let in.

    Attributes:
        headers: Its headers, by lower-case name.
        body: Its body.
        signed: Whether a signature answers for the body, and so for nothing in the headers.
        depth: How many levels of nesting a body may have.
    """

    headers: Mapping[str, str]
    body: bytes
    signed: bool = False
    depth: int = 64

    @property
    def media_type(self) -> str:
        """The content type without its parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self, *types: str) -> Any:
        """Returns the body's JSON value.

        Args:
            types: The media types that are taken; default: application/json, and any that ends in `+json`.

        Raises:
            Refusal: 415 for another content type, 400 for a body that is not JSON or whose values are out of bounds.
        """
        found = self.media_type
        if found not in (types or (_JSON,)) and not (not types and found.endswith("+json")):
            expected = " or ".join(types or (_JSON,))
            raise Refusal(415, f"expected content type {expected}, found {found[:100] or 'none'}")
        return read_json(self.body, self.depth)


@dataclass(frozen=True, slots=True)
class Reading:
    """How a source is read.

    Attributes:
        source: The source's name in the routes file.
        event: The kind of its events; None: what the event itself shows.
        fingerprint: What is the same for the same event; None: the source's own.
        title: The line for people; None: the source's own.
        labels: Labels over the source's own.
    """

    source: str
    event: Kind | None = None
    fingerprint: Expression | None = None
    title: Expression | None = None
    labels: Mapping[str, Expression] | None = None


Read = Callable[[Call, Reading], Sequence[Delivery]]
"""Turns a request into events.

Raises Refusal (400, 415) for one that is malformed.
"""


def mapping(value: Any, what: str) -> dict[str, Any]:
    """Returns a JSON value that has to be an object.

    Raises:
        Refusal: 400.
    """
    if not isinstance(value, dict):
        raise Refusal(400, f"{what}: expected an object, found {_name(value)}")
    return value


def text(value: Any, what: str, required: bool = False) -> str:
    """Returns a JSON value that has to be text; "" where it is absent.

    Raises:
        Refusal: 400.
    """
    if value is None and not required:
        return ""
    if not isinstance(value, str) or (required and not value):
        raise Refusal(400, f"{what}: expected text, found {_name(value)}")
    return value


def texts(value: Any, what: str) -> dict[str, str]:
    """Returns a JSON value that has to be an object of texts.

    Raises:
        Refusal: 400.
    """
    return {name: text(one, f"{what}.{name[:60]}", required=False) for name, one in mapping(value, what).items()}


def line(words: str) -> str:
    """Returns a title on one line, and not too long."""
    joined = " ".join(words.split())
    return joined if len(joined) <= _TITLE else joined[: _TITLE - 3] + "..."


def known_labels(found: Mapping[str, str]) -> dict[str, str]:
    """Returns the labels that say something; a long one is cut."""
    return {name: value[:_LABEL] for name, value in found.items() if value}


def _name(value: Any) -> str:
    names = {type(None): "null", bool: "a truth value", str: "empty text", list: "a list", dict: "an object"}
    if isinstance(value, str) and value:
        return "text"
    return names.get(type(value), "a number")
