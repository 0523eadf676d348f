import math

import numpy as np
import polars as pl
import pytest

from shipway.errors import InputError
from shipway.model.signature import (
    NULL_TOKEN,
    InputColumn,
    RequestError,
    RowReader,
    columns_from_frame,
    frame_from_columns,
)

INPUTS = [
    InputColumn(name="carrier", kind="category", nullable=False),
    InputColumn(name="delay", kind="number", nullable=True),
    InputColumn(name="night", kind="boolean", nullable=True),
    InputColumn(name="gate", kind="category", nullable=True),
    InputColumn(name="hour", kind="number", nullable=False),
]
ROW = {"hour": 7, "carrier": "AA", "delay": 1.5, "night": True, "gate": "B 7"}
READER = RowReader(INPUTS)


def test_rows_become_columns():
    columns = READER.read([ROW, {**ROW, "delay": None, "night": None, "gate": None, "hour": -3}])
    assert {name: values.shape for name, values in columns.items()} == {column.name: (2, 1) for column in INPUTS}
    assert columns["carrier"].tolist() == [["AA"], ["AA"]]
    assert columns["gate"].tolist() == [["B 7"], [NULL_TOKEN]]
    assert columns["hour"].tolist() == [[7.0], [-3.0]]
    assert columns["delay"].dtype == columns["night"].dtype == np.float64
    assert columns["delay"][0, 0] == 1.5
    assert columns["night"][0, 0] == 1.0
    assert math.isnan(columns["delay"][1, 0])
    assert math.isnan(columns["night"][1, 0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delay": "1.5"}, "row 1: feature 'delay' must be a number, found '1.5' (text)"),
        ({"delay": True}, "row 1: feature 'delay' must be a number, found True (boolean)"),
        ({"delay": [1]}, "row 1: feature 'delay' must be a number, found [1] (list)"),
        ({"delay": math.inf}, "row 1: feature 'delay' must be a finite number, found inf (number)"),
        ({"delay": math.nan}, "row 1: feature 'delay' must be a finite number, found nan (number)"),
        ({"delay": 10**400}, "row 1: feature 'delay' must be a finite number, found a huge integer (number)"),
        ({"hour": None}, "row 1: feature 'hour' must not be null"),
        ({"night": 1}, "row 1: feature 'night' must be true or false, found 1 (number)"),
        ({"night": "true"}, "row 1: feature 'night' must be true or false, found 'true' (text)"),
        ({"carrier": 5}, "row 1: feature 'carrier' must be text, found 5 (number)"),
        ({"carrier": None}, "row 1: feature 'carrier' must not be null"),
        ({"gate": {}}, "row 1: feature 'gate' must be text, found {} (object)"),
        (
            {"seat": 1},
            "row 1: unknown feature 'seat'; the model takes carrier, delay, night, gate, hour",
        ),
    ],
)
def test_a_wrong_value_is_told(change, message):
    with pytest.raises(RequestError) as caught:
        READER.read([ROW, {**ROW, **change}])
    assert str(caught.value) == message


def test_a_missing_feature_is_told_even_if_it_is_nullable():
    row = {name: value for name, value in ROW.items() if name != "delay"}
    with pytest.raises(RequestError, match=r"^row 0: feature 'delay' is missing$"):
        READER.read([row])
    with pytest.raises(RequestError, match=r"^row 0: feature 'delay' is missing$"):
        READER.read([{**row, "dellay": 1}])
    with pytest.raises(RequestError, match=r"features 'carrier', 'delay', 'night', 'gate', 'hour' are missing"):
        READER.read([{}])


@pytest.mark.parametrize("row", [None, 3, "text", [1, 2]])
def test_a_row_must_be_an_object(row):
    with pytest.raises(RequestError, match="row 0: expected an object of features, found"):
        READER.read([row])


def test_no_rows_give_empty_columns():
    assert {values.shape for values in READER.read([]).values()} == {(0, 1)}


def test_frames_and_columns_turn_into_each_other():
    frame = pl.DataFrame(
        {
            "other": [0, 0],
            "hour": [7, 8],
            "carrier": ["AA", ""],
            "delay": [None, 1.5],
            "night": [None, True],
            "gate": [None, "ü"],
        }
    )
    columns = columns_from_frame(INPUTS, frame)
    assert list(columns) == [column.name for column in INPUTS]
    assert columns["gate"].dtype == object
    back = frame_from_columns(INPUTS, columns)
    assert back.equals(frame.select(back.columns).cast({"hour": pl.Float64}))
    assert back.schema["night"] == pl.Boolean
    with pytest.raises(InputError, match="missing column 'carrier'"):
        columns_from_frame(INPUTS, frame.drop("carrier"))
