import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import FunctionTransformer

from shipway.errors import InputError, ShipwayError
from shipway.lineage.digests import digest_file
from shipway.model import skops_file

pytestmark = pytest.mark.slow

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(200, 4)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)

SCRIPT = """
import sys, numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from shipway.model import skops_file
padding = [object() for _ in range(int(sys.argv[2]))]
X = np.random.default_rng(0).normal(size=(200, 4)); Y = (X[:, 0] > 0).astype(int)
model = HistGradientBoostingClassifier(max_iter=5, random_state=0).fit(X, Y)
model.names_ = {"b", "a", "c", "longer", "names"}
skops_file.dump(model, sys.argv[1])
"""


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=5, random_state=0),
        LogisticRegression(),
        RandomForestRegressor(n_estimators=3, random_state=0),
    ],
)
def test_an_object_comes_back(tmp_path, model):
    model.fit(X, Y)
    skops_file.dump(model, tmp_path / "model.skops")
    loaded = skops_file.load(tmp_path / "model.skops")
    assert np.array_equal(loaded.predict(X), model.predict(X))
    skops_file.dump(loaded, tmp_path / "again.skops")
    assert digest_file(tmp_path / "again.skops") == digest_file(tmp_path / "model.skops")


def test_the_bytes_are_the_same_in_every_process(tmp_path):
    digests = set()
    for seed in ("1", "2"):
        path = tmp_path / f"{seed}.skops"
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(path), str(int(seed) * 1000)], env={"PYTHONHASHSEED": seed}, check=True
        )
        digests.add(digest_file(path))
    assert len(digests) == 1
    assert skops_file.load(path).names_ == {"b", "a", "c", "longer", "names"}


def test_shared_objects_stay_shared(tmp_path):
    shared = np.arange(3)
    model = LogisticRegression().fit(X, Y)
    model.one_ = model.two_ = shared
    model.three_ = shared.copy()
    skops_file.dump(model, tmp_path / "model.skops")
    loaded = skops_file.load(tmp_path / "model.skops")
    assert loaded.one_ is loaded.two_
    assert loaded.three_ is not loaded.one_


def test_other_modules_types_are_not_built(tmp_path):
    skops_file.dump(FunctionTransformer(json.dumps), tmp_path / "model.skops")
    with pytest.raises(ShipwayError, match=r"holds json.dumps; only types of sklearn, numpy, scipy are built"):
        skops_file.load(tmp_path / "model.skops")
    with pytest.raises(ShipwayError, match=r"holds json\.dumps"):
        skops_file.load(tmp_path / "model.skops", ["js"])
    assert skops_file.load(tmp_path / "model.skops", ["json"]).func is json.dumps


def test_what_cannot_be_saved_is_told(tmp_path):
    with pytest.raises(InputError, match="FunctionTransformer cannot be saved without pickle"):
        skops_file.dump(FunctionTransformer(kw_args={"file": (tmp_path / "x").open("w")}), tmp_path / "model.skops")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "schema", "array"])
def test_a_damaged_file_is_told(tmp_path, damage):
    path = tmp_path / "model.skops"
    skops_file.dump(LogisticRegression().fit(X, Y), path)
    if damage == "missing":
        path.unlink()
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        if damage == "schema":
            content["schema.json"] = b'{"protocol": 1}'
        else:
            content.pop(next(name for name in content if name.endswith(".npy")))
        with zipfile.ZipFile(path, "w") as archive:
            for name, entry in content.items():
                archive.writestr(name, entry)
    with pytest.raises(ShipwayError, match=r"model.skops: (no such file|damaged)"):
        skops_file.load(path)
