"""Who answers a request: the revisions' shares of the traffic, drawn at random or by a hash of the caller's key.

A key is hashed with each candidate's digest, so that the same callers are not the first to meet every new version, on
every replica and after every restart alike. The candidates are asked in turn, the newest first: a key whose hash lies
below a candidate's share of what is left belongs to it. A share that grows therefore takes requests from the
older revisions alone, and one that shrinks gives them back to where they came from. A fresh copy of an older revision
(a baseline) is asked after all candidates, so that it takes from the old version only.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b

from shipway.serving.revision import Revision

_WHOLE = 1 << 64


class Routes:
    """The shares of the traffic, fixed: a change makes new routes.

    Attributes:
        only: The revision that has all of it; None where there are several, or none.
        primary: The revision with the greatest share; None while nothing is served.

    Args:
        revisions: The revisions in the order they were put there.
    """

    __slots__ = ("_turns", "only", "primary")

    def __init__(self, revisions: Sequence[Revision]) -> None:
        shared = [revision for revision in in_turn(revisions) if revision.share]
        left = 100
        self._turns: list[tuple[Revision, int, float, bytes]] = []
        for revision in shared:
            part = revision.share / left
            self._turns.append((revision, round(part * _WHOLE), part, revision.digest.encode()[-64:]))
            left -= revision.share
        self.only = shared[0] if len(shared) == 1 else None
        self.primary = max(shared, key=lambda revision: revision.share, default=None)

    def choose(self, key: str) -> Revision | None:
        """Returns who answers a request; None while nothing is served.

        Args:
            key: What the caller is known by; "" draws at random.
        """
        if self.only is not None or not self._turns:
            return self.only
        text = key.encode(errors="surrogatepass")
        for revision, below, part, salt in self._turns[:-1]:
            if key:
                drawn = int.from_bytes(blake2b(text, digest_size=8, key=salt).digest())
                if drawn < below:
                    return revision
            elif random.random() < part:  # noqa: S311 - shares traffic, keeps no secret
                return revision
        return self._turns[-1][0]


def in_turn(revisions: Sequence[Revision]) -> list[Revision]:
    """Returns revisions as they are asked: candidates from the newest, then fresh copies, then the oldest."""
    oldest, rest = list(revisions[:1]), list(revisions[1:])
    seen = {revision.digest for revision in oldest}
    candidates: list[Revision] = []
    copies: list[Revision] = []
    for revision in rest:
        (copies if revision.digest in seen else candidates).append(revision)
        seen.add(revision.digest)
    return [*reversed(candidates), *reversed(copies), *oldest]
