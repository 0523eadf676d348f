"""What a revision did in a window of time, as counts that can be added up.

The server counts them, an endpoint returns them, and a rollout and the monitoring judge by them. Counts add up: over
servers, over windows, and over what Prometheus or a prediction log has of them.
"""

import bisect
import math
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from shipway.errors import ShipwayError

_FIRST_MS, _RATIO, _EDGES = 0.05, 1.25, 64
LATENCY_EDGES_MS: tuple[float, ...] = tuple(float(f"{_FIRST_MS * _RATIO**i:.4g}") for i in range(_EDGES))
"""Upper edges (inclusive) of the latency buckets, in milliseconds: 0.05 ms to 64 s, each 1.25 times the last."""

PROBABILITY_EDGES: tuple[float, ...] = tuple(round(i / 20, 2) for i in range(1, 20))
"""Inner edges of the histogram of a binary model's probability of the positive class: 20 equal bins."""


class WindowMismatchError(ShipwayError):
    """Two windows count different things and cannot be compared or added."""


class _Counts(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeatureCounts(_Counts):
    """A feature of the requests: enough for its mean, spread and share of nulls.

    Attributes:
        rows: How many rows, nulls included.
        nulls: How many of them are null.
        total: Sum of the values; 0 for categories.
        squares: Sum of the squared values; 0 for categories.
    """

    rows: int = 0
    nulls: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, other: "FeatureCounts") -> "FeatureCounts":
        """Returns both together."""
        return FeatureCounts(
            rows=self.rows + other.rows,
            nulls=self.nulls + other.nulls,
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )


class PredictionCounts(_Counts):
    """Histogram of predictions.

    Attributes:
        kind: `number` (a probability of the positive class, or a value): between edges; `class`: by label.
        edges: For numbers: the inner edges, ascending; `len(edges) + 1` counts, bin i holds edge[i-1] <= x < edge[i].
        labels: For classes: the labels, as text.
        counts: Rows in each bin or of each label.
    """

    kind: Literal["number", "class"]
    edges: list[float] = Field(default_factory=list)
    labels: list[str] = Field(default_factory=list)
    counts: list[int]

    def plus(self, other: "PredictionCounts") -> "PredictionCounts":
        """Returns both together.

        Raises:
            WindowMismatchError: Their bins or labels differ.
        """
        if (self.kind, self.edges, self.labels) != (other.kind, other.edges, other.labels):
            raise WindowMismatchError("the predictions of two windows are counted in different bins")
        counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        return self.model_copy(update={"counts": counts})


class MirrorCounts(_Counts):
    """What became of requests that were mirrored to a revision, and how its answers compare with the primary's.

    Attributes:
        sent: Requests handed to it.
        dropped: Requests left out because its queue was full.
        failed: Requests it did not answer, or refused although the primary answered.
        compared: Rows with an answer of both.
        agreed: Of these, rows with the same label (classes), or values within 5 % or 1e-9 of one another (regression).
        difference: Sum over the compared rows of the absolute difference of probability or value.
    """

    sent: int = 0
    dropped: int = 0
    failed: int = 0
    compared: int = 0
    agreed: int = 0
    difference: float = 0.0

    def plus(self, other: "MirrorCounts") -> "MirrorCounts":
        """Returns both together."""
        mine, theirs = self.model_dump(), other.model_dump()
        return MirrorCounts(**{name: mine[name] + theirs[name] for name in mine})


class Window(_Counts):
    """What one revision did between two moments.

    Attributes:
        revision: Its id.
        since: Beginning (inclusive), seconds since the epoch.
        until: End (exclusive).
        requests: Requests it was given, mirrored ones included: answered, refused and failed ones.
        errors: Requests that failed by the revision's fault: an exception, no answer in time, its process gone.
        refused: Requests it refused as not fitting the model (4xx).
        latency: Answered requests by time the model took, `len(LATENCY_EDGES_MS) + 1` counts; the last is beyond.
        predictions: Histogram of what it predicted; None where nobody counts it.
        features: Feature -> counts of the rows it was asked about, or of a sample of them; empty where nobody counts.
        mirror: What was mirrored to it.
    """

    revision: str
    since: float
    until: float
    requests: int = 0
    errors: int = 0
    refused: int = 0
    latency: list[int] = Field(default_factory=lambda: [0] * (len(LATENCY_EDGES_MS) + 1))
    predictions: PredictionCounts | None = None
    features: dict[str, FeatureCounts] = Field(default_factory=dict)
    mirror: MirrorCounts = Field(default_factory=MirrorCounts)

    @property
    def error_rate(self) -> float:
        """Errors a request; 0 without requests."""
        return self.errors / self.requests if self.requests else 0.0

    def quantile_ms(self, q: float) -> float | None:
        """Returns a quantile of the latency in milliseconds (the upper edge of its bucket), None without requests."""
        return latency_quantile_ms(self.latency, q)

    def slower_than(self, milliseconds: float) -> int:
        """Returns how many requests surely took longer: those in the buckets that begin at or above it."""
        return sum(self.latency[bisect.bisect_left(LATENCY_EDGES_MS, milliseconds) + 1 :])

    def plus(self, other: "Window") -> "Window":
        """Returns both together, from the earlier beginning to the later end.

        Raises:
            WindowMismatchError: They are of two revisions, or count predictions in different bins.
        """
        if self.revision != other.revision:
            raise WindowMismatchError(f"windows of two revisions: {self.revision} and {other.revision}")
        if self.predictions is not None and other.predictions is not None:
            predictions: PredictionCounts | None = self.predictions.plus(other.predictions)
        else:
            predictions = self.predictions or other.predictions
        names = {**self.features, **other.features}
        none = FeatureCounts()
        return Window(
            revision=self.revision,
            since=min(self.since, other.since),
            until=max(self.until, other.until),
            requests=self.requests + other.requests,
            errors=self.errors + other.errors,
            refused=self.refused + other.refused,
            latency=[mine + theirs for mine, theirs in zip(self.latency, other.latency, strict=True)],
            predictions=predictions,
            features={name: self.features.get(name, none).plus(other.features.get(name, none)) for name in names},
            mirror=self.mirror.plus(other.mirror),
        )


def latency_quantile_ms(counts: Sequence[int], q: float) -> float | None:
    """Returns a quantile of latency counts: the upper edge of its bucket, infinite beyond the last edge."""
    wanted = q * sum(counts)
    if not wanted:
        return None
    seen = 0
    for count, edge in zip(counts, (*LATENCY_EDGES_MS, math.inf), strict=True):
        seen += count
        if seen >= wanted:
            return edge
    return math.inf
