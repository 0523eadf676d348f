"""How a prediction log lies in its folder: what the server writes and who joins outcomes reads.

    URI/REVISION/FIRST-LAST-INSTANCE-NUMBER.parquet      FIRST and LAST: milliseconds since the epoch

A file appears whole or not at all, and holds rows of one revision only. Columns:

    time        timestamp, UTC      when the request was answered
    request     text                the same for the rows of one request
    row         int32               the row's place in its request, from 0
    version     text                the registry's version
    key         text or null        what the caller is known by (`endpoint.sticky`)
    seconds     float64             what the model took for the request
    prediction  float64             binary: probability of the positive class; multiclass: of the label; or the value
    label       text or null        the predicted class; null for regression
    outputs     list of float64     all probabilities, in the order of the classes, or the value
    features    struct              the row as it was asked: a field a feature

Each file's metadata `shipway` is JSON: `task`, `classes`, `edges` and `labels`, as `PredictionCounts` has them.
"""

from collections.abc import Iterable
from dataclasses import dataclass

METADATA = "shipway"
_SUFFIX = ".parquet"


@dataclass(frozen=True, slots=True)
class Part:
    """A file of a prediction log.

    Attributes:
        path: Its path, as its filesystem has it.
        revision: The revision.
        first: When its first row was answered, seconds since the epoch.
        last: When its last row was.
    """

    path: str
    revision: str
    first: float
    last: float


def part_name(first: float, last: float, instance: str, number: int) -> str:
    """Returns a part's file name."""
    return f"{int(first * 1000)}-{int(last * 1000)}-{instance}-{number}{_SUFFIX}"


def parts(paths: Iterable[str]) -> list[Part]:
    """Returns the parts among files, the oldest first; others are left out."""
    found = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        words = name.removesuffix(_SUFFIX).split("-")
        if name.endswith(_SUFFIX) and len(words) >= 4 and words[0].isdecimal() and words[1].isdecimal():
            # The name has whole milliseconds; the last row may be a fraction of one later.
            first, last = int(words[0]) / 1000, (int(words[1]) + 1) / 1000
            found.append(Part(path, folder.rpartition("/")[2], first, last))
    return sorted(found, key=lambda part: (part.first, part.path))
