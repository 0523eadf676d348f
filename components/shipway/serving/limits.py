"""What a request may weigh, and how it is refused."""

from dataclasses import dataclass

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a request.

    Attributes:
        body_bytes: Largest body; a larger one is answered with 413 without being read whole.
        rows: Most rows of one request; more are answered with 413.
        inline_rows: Requests with more rows are predicted on a thread, so that health checks are not kept waiting.
        body_seconds: How long a client may take to send its body; a slower one is answered with 408.
    """

    body_bytes: int = 8 * MIB
    rows: int = 10_000
    inline_rows: int = 1_000
    body_seconds: float = 30.0


class Refusal(Exception):  # noqa: N818 - an answer to a caller, as an HTTP status is; not a fault of the server
    """A request is answered with a 4xx (or 503) and one reason.

    Attributes:
        status: The HTTP status.
        reason: One sentence for the caller.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
