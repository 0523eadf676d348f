"""Measures the drift figures of a million rows by eleven columns, beside Evidently's preset and NannyML's calculator.

Each tool runs in a fresh process, in turn, round by round; the time is that of the whole process, from its start over
the Parquet file to the figures, and so are the processor's time and the peak of memory. Shipway reads the rows alone,
because it keeps the training part's statistics; the others read the training part's rows as well. Where two tools
measure the same, their figures are printed side by side.

    python tests/bench/drift.py [--rows 1000000] [--rounds 3] [--only NAME ...]

It wants what `make bench-drift` prepares: `.bench/nannyml` (a venv with NannyML).
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BENCH = ROOT / ".bench"
DATA = BENCH / "drift"
PYTHONS = {
    "shipway": sys.executable,
    "evidently": sys.executable,
    "nannyml": str(BENCH / "nannyml" / "bin" / "python"),
}
# Nobody calls home while the clock runs.
QUIET = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1"}
TEXTS = ("carrier", "origin", "dest")
Figures = dict[str, dict[str, float]]


def make_rows(rows: int, shifted: bool) -> Any:
    """Returns a frame of eight numbers and three texts like the flights example's; half of them move when shifted."""
    import numpy as np
    import polars as pl

    draw = np.random.default_rng(int(shifted))
    move = 0.3 if shifted else 0.0
    weights = np.arange(100, 0, -1.0) ** (1.5 if shifted else 1.3)
    nulls = draw.random(rows) < 0.02
    return pl.DataFrame(
        {
            "month": draw.integers(1, 13, rows),
            "hour": np.clip(draw.normal(13, 4.7, rows).round(), 5, 23).astype(np.int64),
            "delay": draw.gamma(1.2, 25 * (1 + move), rows) - 15,
            "distance": draw.choice([94, 184, 229, 502, 733, 1020, 1400, 2475], rows) + draw.integers(0, 40, rows),
            "temperature": draw.normal(55 - 40 * move, 18, rows),
            "wind": draw.lognormal(2 + move, 0.6, rows),
            "rain": np.where(draw.random(rows) < 0.93 - move, 0.0, draw.exponential(0.05, rows)),
            "pressure": draw.normal(1017, 7, rows),
            "carrier": draw.choice([f"C{place:02}" for place in range(16)], rows),
            "origin": draw.choice(["EWR", "JFK", "LGA"], rows, p=[0.36 + move / 2, 0.33 - move / 2, 0.31]),
            "dest": draw.choice([f"D{place:03}" for place in range(100)], rows, p=weights / weights.sum()),
        }
    ).with_columns(pl.when(pl.Series(nulls)).then(None).otherwise(pl.col("pressure")).alias("pressure"))


def prepare(rows: int) -> None:
    """Writes the rows of both sides, and the statistics that featurize would have kept of the first."""
    import numpy as np

    from shipway.lineage.documents import Statistics
    from shipway.model.statistics import describe_categories, describe_numbers

    DATA.mkdir(parents=True, exist_ok=True)
    reference = make_rows(rows, shifted=False)
    reference.write_parquet(DATA / "reference.parquet")
    make_rows(rows, shifted=True).write_parquet(DATA / "current.parquet")
    columns = {}
    for series in reference:
        if series.name in TEXTS:
            columns[series.name] = describe_categories(dict(series.value_counts().iter_rows()))
        else:
            values = np.sort(series.drop_nulls().cast(float).to_numpy())
            columns[series.name] = describe_numbers(values, series.null_count())
    Statistics(rows=rows, label=columns["origin"], columns=columns).write(DATA / "statistics.json")


def shipway() -> Figures:
    """Measures as the step `monitor` does."""
    import polars as pl

    from shipway.lineage.documents import Statistics, read_document
    from shipway.model.package import PackageInfo
    from shipway.model.profile import Profiler
    from shipway.model.signature import InputColumn
    from shipway.monitor.drift import MEASURES, drift_of
    from shipway.spec import MonitorSection

    known = read_document(Statistics, DATA / "statistics.json")
    inputs = [
        InputColumn(name=name, kind="category" if column.kind == "category" else "number", nullable=True)
        for name, column in known.columns.items()
    ]
    info = PackageInfo(
        name="bench", task="regression", label="none", classes=[], inputs=inputs, features=[], trainer="sklearn",
        onnx=False, onnx_note="", libraries={},
    )  # fmt: skip
    profiler = Profiler(known, info, None)
    profiler.update(pl.read_parquet(DATA / "current.parquet"), None)
    found, _ = drift_of(known, None, profiler.profile(), MonitorSection(window="24h"))
    return {name: {measure: getattr(drift, measure) for measure in MEASURES} for name, drift in found.items()}


def evidently() -> Figures:
    """Runs the preset with its own choice of methods."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    current, reference = (pd.read_parquet(DATA / f"{name}.parquet") for name in ("current", "reference"))
    report = Report([DataDriftPreset()]).run(current, reference)
    names = {"Wasserstein distance (normed)": "wasserstein", "Jensen-Shannon distance": "js"}
    figures: Figures = {}
    for metric in report.dict()["metrics"]:
        config = metric["config"]
        if "column" in config:
            measure = names.get(config["method"], config["method"])
            # Its logarithms are natural, ours to base 2.
            scale = math.sqrt(math.log(2)) if measure == "js" else 1.0
            figures[config["column"]] = {measure: float(metric["value"]) / scale}
    return figures


def nannyml() -> Figures:
    """Runs the univariate calculator with the same measures, all rows one chunk."""
    import nannyml as nml
    import pandas as pd

    current, reference = (pd.read_parquet(DATA / f"{name}.parquet") for name in ("current", "reference"))
    methods = {"kolmogorov_smirnov": "ks", "wasserstein": "wasserstein", "jensen_shannon": "js"}
    calculator = nml.UnivariateDriftCalculator(
        column_names=list(reference.columns),
        treat_as_categorical=list(TEXTS),
        continuous_methods=list(methods),
        categorical_methods=["jensen_shannon"],
        chunk_size=len(current),
    ).fit(reference)
    table = calculator.calculate(current).to_df()
    # Ours are in deviations of the training part.
    deviations = reference.std(ddof=0, numeric_only=True)
    return {
        name: {
            short: float(table[name, method, "value"].iloc[-1]) / (deviations[name] if short == "wasserstein" else 1.0)
            for method, short in methods.items()
            if (name, method, "value") in table.columns
        }
        for name in reference.columns
    }


TOOLS = {"shipway": shipway, "evidently": evidently, "nannyml": nannyml}


def run(name: str) -> tuple[float, float, float, Figures]:
    """Runs a tool in a fresh process: seconds, the processor's seconds, MiB at the peak, figures."""
    output = DATA / f"{name}.json"
    output.unlink(missing_ok=True)
    begun = time.perf_counter()
    with (DATA / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [PYTHONS[name], __file__, "--tool", name, "--output", str(output)],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **QUIET},
        )
        _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begun
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = (DATA / f"{name}.log").read_text().splitlines()
        raise SystemExit(f"{name} failed: {lines[-1] if lines else 'it said nothing'}; see {DATA / name}.log")
    return seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, json.loads(output.read_text())


def compare(figures: dict[str, Figures]) -> None:
    """Prints the figures of each column and measure that two tools have."""
    tools = list(figures)
    print(f"\n{'column':13s}{'measure':13s}" + "".join(f"{tool:>12s}" for tool in tools))
    for column, own in figures[tools[0]].items():
        for measure in own:
            values = [figures[tool].get(column, {}).get(measure) for tool in tools]
            if sum(value is not None for value in values) > 1:
                shown = "".join(f"{'-' if value is None else format(value, '.4f'):>12s}" for value in values)
                print(f"{column:13s}{measure:13s}{shown}")


def main() -> None:
    """Measures, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--tool", choices=list(TOOLS), help=argparse.SUPPRESS)
    parser.add_argument("--output", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.tool:
        Path(options.output).write_text(json.dumps(TOOLS[options.tool]()))
        return
    prepare(options.rows)
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in options.only}
    figures: dict[str, Figures] = {}
    for _ in range(options.rounds):
        for name in options.only:
            *cost, figures[name] = run(name)
            taken[name].append((cost[0], cost[1], cost[2]))
    middle = {name: [statistics.median(values) for values in zip(*costs, strict=True)] for name, costs in taken.items()}
    print(
        f"drift of {options.rows:,} rows by 11 columns, {os.cpu_count()} processors, median of {options.rounds} rounds"
    )
    print(f"{'':13s}{'seconds':>9s}{'ratio':>8s}{'processor':>11s}{'peak MiB':>10s}")
    first = middle[options.only[0]][0]
    for name, (seconds, processor, peak) in middle.items():
        print(f"{name:13s}{seconds:9.2f}{seconds / first:8.1f}{processor:11.2f}{peak:10.0f}")
    compare(figures)


if __name__ == "__main__":
    main()
