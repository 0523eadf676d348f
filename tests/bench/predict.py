"""Measures batch inference beside `mlflow.pyfunc.load_model(...).predict` over chunks of pandas: one machine.

Both read the same Parquet and write the predictions with their key; ours also profiles the rows, and keeps what it
needs to go on after a kill. They take turns in fresh processes; figures are medians over the rounds. Memory is the
greatest resident set of the process. `gather`, which ours needs besides, is a process of its own.

    python tests/bench/predict.py [--rows 10000000] [--rounds 3] [--folder .bench/predict]
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).parents[2]
PART_ROWS = 1_000_000
TRAIN_ROWS = 100_000
CHUNKS = (65_536, 262_144)
SCHEMA = """columns:
  key: {dtype: int64}
  count: {dtype: int64}
  region: {dtype: str, nullable: true}
  product: {dtype: str}
  label: {dtype: bool}
"""


def rows(count: int, first: int, seed: int) -> pl.DataFrame:
    """Returns 8 float, 2 integer and 2 text columns, and a label."""
    draw = np.random.default_rng([seed, first])
    numbers = {f"x{place}": draw.normal(size=count) for place in range(8)}
    frame = pl.DataFrame(
        {
            "key": np.arange(first, first + count),
            **numbers,
            "count": draw.integers(0, 100, count),
            "region": pl.Series([f"r{value}" for value in range(8)]).gather(draw.integers(0, 8, count)),
            "product": pl.Series([f"p{value:03}" for value in range(200)]).gather(draw.integers(0, 200, count)),
        }
    )
    return frame.with_columns(label=pl.Series(numbers["x0"] + draw.normal(size=count) > 0))


def prepare(folder: Path, count: int) -> None:
    """Makes the rows and the package, once."""
    from shipway.dataset import DatasetWriter
    from shipway.lineage.documents import Blessing, Release
    from shipway.model.package import Package

    done = folder / f"rows-{count}"
    if (done / "dataset.json").exists() and (folder / "release.json").exists():
        return
    print(f"making {count:,} rows and a package", file=sys.stderr)
    with DatasetWriter(done, part_rows=PART_ROWS, version="sha256:bench") as writer:
        for first in range(0, count, PART_ROWS):
            writer.write(rows(min(PART_ROWS, count - first), first, 0).drop("label"))
    (folder / "project").mkdir(parents=True, exist_ok=True)
    shares = "".join(f"  x{place}: {{dtype: float64}}\n" for place in range(8))
    (folder / "project" / "schema.yaml").write_text(SCHEMA.replace("  count", shares + "  count"))
    with DatasetWriter(folder / "quarantine") as writer:
        empty = {"shipway_row": pl.Int64, "shipway_reasons": pl.String}
        writer.write(pl.DataFrame(schema={**empty, **rows(1, 0, 0).drop("label").schema}))
    train(folder)
    package = Package.load(folder / "package")
    assert package.runs_onnx, package.info.onnx_note
    Release(
        name="bench",
        version="1",
        digest=package.digest,
        package_uri=str(package.path),
        tracking_uri="",
        created=False,
        blessing=Blessing(decision="blessed", model_digest=package.digest, evaluation_digest=""),
    ).write(folder / "release.json")


def train(folder: Path) -> None:
    """Trains a logistic regression and packages it."""
    from shipway.dataset import DatasetWriter
    from shipway.featurize.fit import featurize
    from shipway.spec import DataSection, FeaturesSection, SchemaSection, SklearnTrain, dump_section
    from shipway.train.run import train_model

    for name, seed in (("train", 1), ("validation", 2)):
        with DatasetWriter(folder / name) as writer:
            writer.write(rows(TRAIN_ROWS, 0, seed))
    parts = {name: folder / name for name in ("train_features", "validation_features", "preprocessor")}
    statistics_path = folder / "statistics.json"
    featurize(
        folder / "train",
        folder / "validation",
        **parts,
        statistics=statistics_path,
        name="bench",
        task="binary",
        data=DataSection(uri="-", label="label", key=["key"]),
        schema=SchemaSection(pandera="schema.yaml"),
        features=FeaturesSection(),
    )
    train_model(
        **parts,
        validation=folder / "validation",
        statistics=statistics_path,
        model=folder / "package",
        section=dump_section(SklearnTrain(trainer="sklearn", estimator="sklearn.linear_model:LogisticRegression")),
    )


def ours(folder: Path, count: int) -> None:
    """Scores the rows with the step `predict`."""
    from shipway.predict.stage import predict_share
    from shipway.spec import DataSection, InferenceSection, dump_section

    sections = dump_section(InferenceSection()), dump_section(DataSection(uri="-", label="label", key=["key"]))
    inputs = folder / f"rows-{count}", folder / "quarantine", folder / "release.json"
    outputs = folder / "out" / "share", folder / "out" / "profile.json"
    predict_share(*inputs, *outputs, *sections, "0/1", "bench")


def gather(folder: Path, _: int) -> None:
    """Puts the one share together, with its page."""
    from shipway.predict.gather import gather_shares
    from shipway.spec import DataSection, EvaluateSection, InferenceSection, dump_section

    data = dump_section(DataSection(uri="-", label="label", key=["key"]))
    sections = dump_section(InferenceSection()), dump_section(EvaluateSection()), data
    out = folder / "out"
    outputs = out / "predictions", out / "gathered.json", out / "report.html"
    shares = [out / "share"], [out / "profile.json"]
    gather_shares(folder / "release.json", folder / "quarantine", *shares, *outputs, *sections)


def pyfunc(chunk: int) -> Callable[[Path, int], None]:
    """Returns a function that scores the rows with MLflow's, chunk by chunk."""

    def run(folder: Path, count: int) -> None:
        import mlflow
        import pyarrow as pa
        import pyarrow.parquet as pq

        model = mlflow.pyfunc.load_model(str(folder / "package"))
        (folder / "out").mkdir(parents=True, exist_ok=True)
        schema = pa.schema([("key", pa.int64()), ("prediction", pa.float64())])
        with pq.ParquetWriter(folder / "out" / "predictions.parquet", schema, compression="zstd") as writer:
            for path in sorted((folder / f"rows-{count}").glob("*.parquet")):
                with pq.ParquetFile(path) as file:
                    for batch in file.iter_batches(batch_size=chunk):
                        frame = batch.drop_columns(["key"]).to_pandas()
                        scores = np.asarray(model.predict(frame), dtype=np.float64)[:, 1]
                        columns = [batch.column("key"), pa.array(scores)]
                        writer.write_table(pa.Table.from_arrays(columns, schema=schema))

    return run


STEPS: dict[str, Callable[[Path, int], None]] = {
    "shipway": ours,
    "gather": gather,
    **{f"pyfunc, chunks of {chunk:,}": pyfunc(chunk) for chunk in CHUNKS},
}


def measure(name: str, folder: Path, count: int) -> tuple[float, float, float]:
    """Runs a step in a fresh process; returns its seconds, those of the processors, and its MiB at most."""
    environment = {
        **os.environ,
        "SHIPWAY_STATE": str(folder / "state"),
        "SHIPWAY_PROJECT": str(folder / "project"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, __file__, "--step", name, "--folder", str(folder), "--rows", str(count)]
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    took, after = time.perf_counter() - started, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    return took, busy, json.loads(done.stdout.splitlines()[-1])["mebibytes"]


def peak() -> float:
    """Returns the greatest resident set of this process in MiB (not `ru_maxrss`, which starts at the parent's)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) / 1024


def check(folder: Path, count: int) -> float:
    """Returns the greatest difference between the predictions of the two, which are in the same order."""
    mine = pl.scan_parquet(folder / "out" / "predictions" / "*.parquet").select("key", ours="prediction")
    theirs = pl.scan_parquet(folder / "out" / "predictions.parquet").select(other="key", theirs="prediction")
    both = pl.concat([mine, theirs], how="horizontal")
    found = both.select(
        pl.len().alias("rows"),
        (pl.col("key") == pl.col("other")).all().alias("same"),
        (pl.col("ours") - pl.col("theirs")).abs().max().alias("apart"),
    ).collect(engine="streaming")
    assert found.row(0)[:2] == (count, True), found
    return float(found["apart"][0])


def main() -> None:
    """Prepares, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench" / "predict")
    parser.add_argument("--step", choices=STEPS)
    given = parser.parse_args()
    folder: Path = given.folder.absolute()
    if given.step:
        STEPS[given.step](folder, given.rows)
        print(json.dumps({"mebibytes": peak()}))
        return
    os.environ["SHIPWAY_STATE"], os.environ["SHIPWAY_PROJECT"] = str(folder / "train-state"), str(folder / "project")
    prepare(folder, given.rows)
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    busy: dict[str, list[float]] = {name: [] for name in STEPS}
    mebibytes: dict[str, float] = dict.fromkeys(STEPS, 0.0)
    for _ in range(given.rounds):
        shutil.rmtree(folder / "out", ignore_errors=True)
        shutil.rmtree(folder / "state", ignore_errors=True)
        for name in STEPS:
            took, worked, used = measure(name, folder, given.rows)
            seconds[name].append(took)
            busy[name].append(worked)
            mebibytes[name] = max(mebibytes[name], used)
        apart = check(folder, given.rows)
    print(f"{given.rows:,} rows, {os.cpu_count()} cores, Python {platform.python_version()}, {given.rounds} rounds")
    print(f"{'':28}{'seconds':>10}{'rows/s':>12}{'CPU s':>8}{'MiB':>8}")
    for name in STEPS:
        middle = statistics.median(seconds[name])
        worked = statistics.median(busy[name])
        print(f"{name:28}{middle:10.1f}{given.rows / middle:12,.0f}{worked:8.1f}{mebibytes[name]:8.0f}")
    whole = statistics.median(seconds["shipway"]) + statistics.median(seconds["gather"])
    best = min(statistics.median(values) for name, values in seconds.items() if name.startswith("pyfunc"))
    print(f"predict and gather {whole:.1f} s, {best / whole:.2f} times as fast as pyfunc; apart by {apart:.1g} at most")


if __name__ == "__main__":
    main()
