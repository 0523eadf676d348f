"""A server that serves one package wrongly: smoke_sabotage.py FAULT DIGEST, then the server's own arguments."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from shipway.model.package import Package
from shipway.serving.server import main

FAULT, DIGEST = sys.argv[1:3]


class Sabotaged:
    def __init__(self, package: Package) -> None:
        self._package = package
        self._calls = 0
        self.info = package.info
        self.digest = package.digest
        self.golden = package.golden

    def columns_from_rows(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        if FAULT == "lenient":
            empty = {column.name: None for column in self.info.inputs}
            rows = [{**empty, **(row if isinstance(row, Mapping) else {})} for row in rows]
        return self._package.columns_from_rows(rows)

    def predict_columns(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        self._calls += 1
        if FAULT == "dies" and self._calls > 5:
            os._exit(9)
        if FAULT == "unseen" and any("unseen" in value for value in columns["carrier"][:, 0]):
            raise KeyError("a category that training never saw")
        prediction = self._package.predict_columns(columns)
        return prediction[:, ::-1] * 0.999 if FAULT == "shifted" else prediction


def load(path: Path, digest: str | None) -> Any:
    package = Package.load(path, digest=digest)
    return Sabotaged(package) if package.digest == DIGEST else package


if __name__ == "__main__":
    sys.exit(main(sys.argv[3:], load))
