"""What the server and a worker process say to one another: frames of a length, a number and a payload on a socket.

The server asks, with JSON for a payload; the worker answers under the same number, in any order. Number 0 is the order
to load a package; its answer is JSON too.
"""

import struct
from typing import NamedTuple

import numpy as np

from shipway.serving.model_slot import Array

REQUEST = struct.Struct("!IQ")
"""Length of the payload, number."""

REPLY = struct.Struct("!IQBd")
"""Length of the payload, number, kind, the worker's own seconds."""

ANSWERED, REFUSED, FAULT = range(3)
_SHAPE = struct.Struct("!II")


class Reply(NamedTuple):
    """An answer of a worker.

    Attributes:
        number: The request's.
        kind: ANSWERED, REFUSED (the payload is the reason) or FAULT (the payload is what happened, for the log).
        seconds: How long the worker was at it.
        payload: The bytes.
    """

    number: int
    kind: int
    seconds: float
    payload: bytes


def request(number: int, payload: bytes) -> bytes:
    """Returns a request's frame."""
    return REQUEST.pack(len(payload), number) + payload


def reply(number: int, kind: int, seconds: float, payload: bytes) -> bytes:
    """Returns an answer's frame."""
    return REPLY.pack(len(payload), number, kind, seconds) + payload


def take_replies(buffer: bytearray) -> list[Reply]:
    """Takes every whole answer off the front of a buffer."""
    found, at = [], 0
    while len(buffer) - at >= REPLY.size:
        length, number, kind, seconds = REPLY.unpack_from(buffer, at)
        end = at + REPLY.size + length
        if len(buffer) < end:
            break
        found.append(Reply(number, kind, seconds, bytes(buffer[at + REPLY.size : end])))
        at = end
    del buffer[:at]
    return found


def pack_array(values: Array) -> bytes:
    """Returns a prediction of shape (rows, columns) as bytes."""
    return _SHAPE.pack(*values.shape) + np.ascontiguousarray(values, dtype="<f8").tobytes()


def unpack_array(payload: bytes) -> Array:
    """Returns the prediction that `pack_array` packed, as float64."""
    return np.frombuffer(payload, dtype="<f8", offset=_SHAPE.size).reshape(_SHAPE.unpack_from(payload))
