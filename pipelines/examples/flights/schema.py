"""What a batch of flights must look like: a month or a year of them, from loader.py or from a file (--data)."""

import pandera.polars as pa
import polars as pl

AIRPORTS = ["EWR", "JFK", "LGA"]
WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
ENGINES = ["4 Cycle", "Reciprocating", "Turbo-fan", "Turbo-jet", "Turbo-prop", "Turbo-shaft"]


class Flights(pa.DataFrameModel):
    """One row for each flight that pushed back; every column but `late` is known at that moment."""

    flight_id: str = pa.Field(
        unique=True, str_matches=r"^[A-Z0-9]{2}\d{1,4}-[A-Z]{3}-\d{8}$", description="Carrier, number, origin, date"
    )
    scheduled_departure: pl.Datetime = pa.Field(description="New York wall-clock time")
    late: bool = pa.Field(nullable=True, description="Arrived more than 15 minutes late; null: diverted, not known")
    carrier: str = pa.Field(str_matches=r"^[A-Z0-9]{2}$", description="IATA code")
    origin: str = pa.Field(isin=AIRPORTS)
    dest: str = pa.Field(str_matches=r"^[A-Z]{3}$")
    weekday: str = pa.Field(isin=WEEKDAYS)
    departure_minute: int = pa.Field(in_range={"min_value": 0, "max_value": 1439}, description="Minutes past midnight")
    scheduled_minutes: int = pa.Field(in_range={"min_value": 20, "max_value": 900}, description="Departure to arrival")
    distance: int = pa.Field(in_range={"min_value": 50, "max_value": 5500}, description="Miles")
    departure_delay: int = pa.Field(in_range={"min_value": -90, "max_value": 2880}, description="Minutes; < 0: early")
    temp: float = pa.Field(nullable=True, in_range={"min_value": -30, "max_value": 120}, description="Degrees F")
    humid: float = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 100}, description="Per cent")
    wind_speed: float = pa.Field(
        nullable=True, in_range={"min_value": 0, "max_value": 150}, description="Miles an hour"
    )
    precip: float = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 6}, description="Inches in the hour")
    pressure: float = pa.Field(nullable=True, in_range={"min_value": 900, "max_value": 1080}, description="Millibars")
    visib: float = pa.Field(nullable=True, in_range={"min_value": 0, "max_value": 10}, description="Miles, at most 10")
    plane_year: int = pa.Field(nullable=True, in_range={"min_value": 1930, "max_value": 2100}, description="Built in")
    seats: int = pa.Field(nullable=True, in_range={"min_value": 1, "max_value": 900})
    engine: str = pa.Field(nullable=True, isin=ENGINES)

    class Config:
        """Columns that nobody declared are refused."""

        strict = True

    @pa.dataframe_check(error="departure_minute and weekday are those of scheduled_departure")
    def clock_agrees(cls, data: pa.PolarsData) -> pl.LazyFrame:  # noqa: N805 - Pandera makes it a class method
        """A feed with shifted time zones, or swapped columns, shows here."""
        departure = pl.col("scheduled_departure").dt
        minute = departure.hour().cast(pl.Int64) * 60 + departure.minute()
        weekday = departure.strftime("%a")
        return data.lazyframe.select((pl.col("departure_minute") == minute) & (pl.col("weekday") == weekday))

    @pa.dataframe_check(error="distance and scheduled_minutes make a speed between 40 and 700 mph")
    def speed_is_a_planes(cls, data: pa.PolarsData) -> pl.LazyFrame:  # noqa: N805 - Pandera makes it a class method
        """A unit mistaken in either column, or a time zone left out, shows here."""
        return data.lazyframe.select((pl.col("distance") * 60 / pl.col("scheduled_minutes")).is_between(40, 700))

    @pa.dataframe_check(error="flight_id names the row's carrier, origin and date")
    def identity_agrees(cls, data: pa.PolarsData) -> pl.LazyFrame:  # noqa: N805 - Pandera makes it a class method
        """Rows joined to the wrong flight show here."""
        date = pl.col("scheduled_departure").dt.strftime("%Y%m%d")
        ending = pl.format("-{}-{}", "origin", date)
        named = pl.col("flight_id")
        return data.lazyframe.select(named.str.starts_with(pl.col("carrier")) & named.str.ends_with(ending))
