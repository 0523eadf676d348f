import json

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shipway.errors import InputError, ShipwayError
from shipway.lineage.digests import digest_tree
from shipway.model.onnx_graph import open_session, serialize
from shipway.model.preprocessor import ModelFacts, load_preprocessor
from shipway.model.signature import InputColumn, columns_from_frame
from shipway.model.tabular import CategoryTransform, NumberTransform, TabularPreprocessor, unique_names

FACTS = ModelFacts(name="demo", task="binary", label="y", classes=["no", "yes"])
TEXTS = st.sampled_from(["", "a", "Ä", "日本", "other", "missing", "null", " a", "a\nb", '"', "🛫", "None"])
# ONNX Runtime leaves out a subtraction of what is zero as a float32, also where the graph says float64.
FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda x: x == 0 or abs(x) > 1e-30)


def number(name, nullable=True):
    return InputColumn(name=name, kind="number", nullable=nullable)


def category(name, nullable=True):
    return InputColumn(name=name, kind="category", nullable=nullable)


def scaled(column, impute=0.0, mean=0.0, std=1.0, indicator=False):
    return NumberTransform(column=column, impute=impute, mean=mean, std=std, indicator=indicator)


def through_onnx(preprocessor, frame, folder):
    path = folder / "preprocessor.onnx"
    path.write_bytes(serialize(preprocessor.to_onnx()))
    session = open_session(path)
    columns = columns_from_frame(preprocessor.inputs, frame)
    names = [tensor.name for tensor in session.get_inputs()]
    return session.run(None, dict(zip(names, columns.values(), strict=True)))[0]


@st.composite
def cases(draw):
    """A preprocessor of any state, and any frame that fits it."""
    inputs, numbers, categories, data = [], [], [], {}
    rows = draw(st.integers(1, 12))
    for position in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["number", "boolean", "category"]))
        name = f"{kind}{position}"
        missing = draw(st.booleans())
        inputs.append(InputColumn(name=name, kind=kind, nullable=missing))
        if kind == "category":
            values = draw(st.lists(TEXTS, unique=True, max_size=4))
            categories.append(CategoryTransform(column=name, values=values, missing=missing))
            dtype, value = pl.String, TEXTS | st.text(max_size=4).filter(lambda text: "\0" not in text)
        else:
            std = abs(draw(FLOATS)) or 1.0
            numbers.append(scaled(name, draw(FLOATS), draw(FLOATS), std, missing))
            dtype, value = (pl.Boolean, st.booleans()) if kind == "boolean" else (pl.Float64, FLOATS)
        value = draw(st.sampled_from([value, value | st.none(), st.none()]))
        data[name] = pl.Series(name, draw(st.lists(value, min_size=rows, max_size=rows)), dtype=dtype)
    return TabularPreprocessor(FACTS, inputs, numbers, categories), pl.DataFrame(data)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases())
def test_the_graph_gives_what_the_preprocessor_gives(case, tmp_path_factory):
    preprocessor, frame = case
    expected = preprocessor.transform(frame)
    assert expected.dtype == np.float32
    assert expected.shape == (frame.height, len(preprocessor.features))
    assert np.isfinite(expected).all()
    found = through_onnx(preprocessor, frame, tmp_path_factory.mktemp("graph"))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_values_are_imputed_scaled_and_one_hot():
    preprocessor = TabularPreprocessor(
        FACTS,
        [number("delay"), InputColumn(name="late", kind="boolean", nullable=False), category("carrier")],
        [scaled("delay", impute=4.0, mean=2.0, std=2.0, indicator=True), scaled("late")],
        [CategoryTransform(column="carrier", values=["UA", "AA"], missing=True)],
    )
    frame = pl.DataFrame(
        {"extra": [0, 0, 0], "carrier": ["AA", "ZZ", None], "late": [True, False, True], "delay": [None, 6, 2]}
    )
    assert preprocessor.features == [
        "delay", "late", "delay__missing", "carrier=UA", "carrier=AA", "carrier=other", "carrier=missing",
    ]  # fmt: skip
    assert preprocessor.transform(frame).tolist() == [
        [1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0],
        [2.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0],
        [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0],
    ]


def test_null_counts_as_other_where_it_has_no_column():
    preprocessor = TabularPreprocessor(
        FACTS, [category("c", nullable=False)], [], [CategoryTransform(column="c", values=["a"], missing=False)]
    )
    assert preprocessor.transform(pl.DataFrame({"c": ["a", None]})).tolist() == [[1, 0], [0, 1]]


def test_names_never_collide():
    preprocessor = TabularPreprocessor(
        FACTS,
        [number("a"), number("a__missing"), category("c"), number("__label__")],
        [scaled("a", indicator=True), scaled("a__missing"), scaled("__label__")],
        [CategoryTransform(column="c", values=["other", "missing", "other#2"], missing=True)],
    )
    assert len(set(preprocessor.features)) == len(preprocessor.features)
    assert "__label__" not in preprocessor.features
    assert 'c="other"' in preprocessor.features
    assert unique_names(["x", "x", "x#2"]) == ["x", "x#2", "x#2#2"]


def test_huge_numbers_stay_finite(tmp_path):
    preprocessor = TabularPreprocessor(FACTS, [number("a")], [scaled("a", std=1e-300)], [])
    frame = pl.DataFrame({"a": [1e308, -1e308, float("inf"), 10.0**20]})
    assert np.isfinite(preprocessor.transform(frame)).all()
    assert np.array_equal(through_onnx(preprocessor, frame, tmp_path), preprocessor.transform(frame))


def test_columns_named_like_the_graphs_own_values(tmp_path):
    inputs = [number("features"), number("prediction"), category("shipway/numbers")]
    preprocessor = TabularPreprocessor(
        FACTS,
        inputs,
        [scaled("features", mean=1.0), scaled("prediction")],
        [CategoryTransform(column="shipway/numbers", values=["x"], missing=False)],
    )
    frame = pl.DataFrame({"features": [1.0, 2.0], "prediction": [3.0, 4.0], "shipway/numbers": ["x", "y"]})
    assert np.array_equal(through_onnx(preprocessor, frame, tmp_path), preprocessor.transform(frame))


def test_dtypes_of_a_kind_are_taken_and_others_refused():
    preprocessor = TabularPreprocessor(
        FACTS,
        [number("n"), category("c")],
        [scaled("n")],
        [CategoryTransform(column="c", values=["a"], missing=False)],
    )
    expected = [[1.0, 1.0, 0.0]]
    for dtype in (pl.Int8, pl.UInt64, pl.Float32, pl.Decimal(10, 2), pl.String, pl.Boolean):
        for text in (pl.Categorical, pl.Enum(["a"]), pl.String):
            value = "1" if dtype == pl.String else 1
            frame = pl.DataFrame({"n": pl.Series([value], strict=False).cast(dtype), "c": pl.Series(["a"], dtype=text)})
            assert preprocessor.transform(frame).tolist() == expected
    assert preprocessor.transform(pl.DataFrame({"n": [None], "c": [None]})).tolist() == [[0.0, 0.0, 1.0]]
    assert preprocessor.transform(pl.DataFrame({"n": [], "c": []})).shape == (0, 3)
    with pytest.raises(InputError, match="column 'n': expected numbers, found String"):
        preprocessor.transform(pl.DataFrame({"n": ["abc"], "c": ["a"]}))
    with pytest.raises(InputError, match="column 'n': expected numbers, found Date"):
        preprocessor.transform(pl.DataFrame({"n": pl.Series([1], dtype=pl.Date), "c": ["a"]}))
    with pytest.raises(InputError, match="column 'c': expected text"):
        preprocessor.transform(pl.DataFrame({"n": [1], "c": [["a"]]}))
    with pytest.raises(InputError, match="missing columns c; the model takes n, c"):
        preprocessor.transform(pl.DataFrame({"n": [1.0]}))


def test_a_folder_loads_to_the_same_and_has_the_same_bytes(tmp_path):
    preprocessor = TabularPreprocessor(
        FACTS,
        [number("n"), category("ß")],
        [scaled("n", impute=0.1, mean=1 / 3, std=2 / 3, indicator=True)],
        [CategoryTransform(column="ß", values=["", "ü"], missing=True)],
    )
    preprocessor.save(tmp_path / "one")
    loaded = load_preprocessor(tmp_path / "one")
    loaded.save(tmp_path / "two")
    assert digest_tree(tmp_path / "one") == digest_tree(tmp_path / "two")
    assert loaded.facts == FACTS
    frame = pl.DataFrame({"n": [1.5, None], "ß": ["ü", None]})
    assert np.array_equal(loaded.transform(frame), preprocessor.transform(frame))
    assert serialize(loaded.to_onnx()) == serialize(preprocessor.to_onnx())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("numbers"), "damaged"),
        (lambda state: state.pop("classes"), "damaged"),
        (lambda state: state.update(kind="else"), "unknown kind 'else'"),
        (lambda state: state.pop("kind"), "no `kind`"),
        (lambda state: state.update(features=["x"]), "features do not follow"),
        (lambda state: state["numbers"][0].update(std="wide"), "damaged"),
        (lambda state: state["inputs"][0].update(kind="tensor"), "damaged"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path, change, message):
    TabularPreprocessor(FACTS, [number("n")], [scaled("n")], []).save(tmp_path)
    path = tmp_path / "preprocessor.json"
    state = json.loads(path.read_text())
    change(state)
    path.write_text(json.dumps(state))
    with pytest.raises(ShipwayError, match=message):
        load_preprocessor(tmp_path)
    path.write_text("{")
    with pytest.raises(ShipwayError, match="damaged"):
        load_preprocessor(tmp_path)
    path.unlink()
    with pytest.raises(ShipwayError, match="no preprocessor"):
        load_preprocessor(tmp_path)
