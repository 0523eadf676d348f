"""A server, and its workers, around stand-ins of packages that do what a row asks for.

A row whose `carrier` is `boom` makes the model fail; `sleep-30` makes it take 30 milliseconds.
"""

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "serving"))
from serving_stand_in import StandIn

SERVER = [sys.executable, "-P", str(Path(__file__))]


class Obedient(StandIn):
    def predict_columns(self, columns: dict[str, np.ndarray]) -> np.ndarray:
        for carrier in columns["carrier"][:, 0]:
            if carrier == "boom":
                raise KeyError("a fault of the model")
            if str(carrier).startswith("sleep-"):
                time.sleep(int(carrier.removeprefix("sleep-")) / 1000)
        return super().predict_columns(columns)


if __name__ == "__main__":
    from shipway.serving.server import main

    sys.exit(main(loader=Obedient))
