"""The model package: an MLflow model folder that takes raw rows.

    MLmodel             MLflow's description (pyfunc flavour, `shipway.model.pyfunc`)
    package.json        PackageInfo
    preprocessor/       the fitted preprocessor
    estimator/          the trained estimator
    model.onnx          both as one graph from raw columns to prediction, where they convert
    statistics.json     the training part, column by column
    predictions.json    what it predicts of the validation part, described
    golden.parquet      a few raw rows of the validation part, for smoke tests
    requirements.txt    the libraries it was made with

Nothing in it depends on when or where it was made: the same parts give the same digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from shipway.errors import DigestMismatchError, InputError, ShipwayError, UserCodeError
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import (
    CategoryStatistics,
    NumberStatistics,
    PredictionStatistics,
    Statistics,
    read_document,
)
from shipway.lineage.files import atomic_folder, write_bytes, write_text
from shipway.model.mlmodel import write_mlmodel
from shipway.model.preprocessor import NotConvertible, Preprocessor, load_preprocessor
from shipway.model.profile import describe_predictions
from shipway.model.signature import (
    Columns,
    InputColumn,
    RowReader,
    columns_from_frame,
    frame_from_columns,
    require_columns,
)

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import polars as pl

    from shipway.model.estimator import Estimator

GOLDEN_ROWS = 20
TOLERANCE = 1e-4
"""How far the ONNX and the native form may differ: absolutely, and for large values relatively."""

_INFO = "package.json"
_GRAPH = "model.onnx"
_GOLDEN = "golden.parquet"
_STATISTICS = "statistics.json"
_PREDICTIONS = "predictions.json"
# Rows that are converted at once, and rows that a graph is given at once: its one-hot columns, a kilobyte a row, should
# stay in the processor's cache.
_CHUNK, _GRAPH_ROWS = 65_536, 4_096
_ALWAYS = ("numpy", "onnxruntime", "polars", "pydantic")
_LIBRARIES = {"sklearn": ("scikit-learn", "skops"), "torch": ("safetensors", "torch")}

Prediction = npt.NDArray[np.floating[Any]]


class PackageInfo(BaseModel):
    """What a package says of itself in `package.json`.

    Attributes:
        name: The model's name.
        task: binary, multiclass or regression.
        label: The column it predicts.
        classes: What the columns of a prediction stand for; [] for regression.
        inputs: The raw columns it takes.
        features: The columns that its preprocessor makes of them.
        trainer: sklearn or torch.
        onnx: Whether the package holds an ONNX graph.
        onnx_note: Why not, when it does not.
        libraries: The versions it was made with, by package.
    """

    model_config = ConfigDict(extra="forbid")

    schema_version: int = 1
    name: str
    task: str
    label: str
    classes: list[str | int | bool]
    inputs: list[InputColumn]
    features: list[str]
    trainer: str
    onnx: bool
    onnx_note: str
    libraries: dict[str, str]


class Package:
    """A loaded package. Made by `Package.load`.

    Attributes:
        info: What it says of itself.
        digest: Digest of its folder.
        path: Its folder.
    """

    def __init__(
        self,
        path: Path,
        info: PackageInfo,
        digest: str,
        session: onnxruntime.InferenceSession | None,
        native: tuple[Preprocessor, Estimator] | None,
    ) -> None:
        self.path = path
        self.info = info
        self.digest = digest
        self._session = session
        self._native = native
        self._reader = RowReader(info.inputs)
        if session is not None:
            self._outputs = [session.get_outputs()[0].name]
            self._tensors = [
                (column.name, tensor.name) for column, tensor in zip(info.inputs, session.get_inputs(), strict=True)
            ]

    @classmethod
    def load(cls, path: str | Path, digest: str | None = None, onnx: bool = True, threads: int = 1) -> Package:
        """Loads a package; the native form only when there is no graph, or none is wanted.

        Args:
            path: Its folder.
            digest: What its digest must be; not checked when None.
            onnx: Whether to run its ONNX graph if it has one.
            threads: Threads of one prediction through ONNX Runtime.

        Raises:
            DigestMismatchError: The folder's digest is another.
            ShipwayError: A file is missing or damaged.
            UserCodeError: The user's own code in the package raised.
        """
        folder = Path(path)
        info = _read_info(folder)
        found = digest_tree(folder)
        if digest is not None and found != digest:
            raise DigestMismatchError(f"{folder}: the package's digest is {found}, expected {digest}")
        session = native = None
        if onnx and info.onnx:
            session = _open(folder, info, threads)
        else:
            native = _load_native(folder)
        return cls(folder, info, found, session, native)

    @property
    def runs_onnx(self) -> bool:
        """Whether predictions go through the ONNX graph."""
        return self._session is not None

    def predict(self, frame: pl.DataFrame) -> Prediction:
        """Returns the predictions of raw rows.

        Args:
            frame: Raw rows by column name; other columns are ignored.

        Returns:
            Probabilities of shape (rows, classes) in the order of `info.classes`, or values of shape (rows, 1).

        Raises:
            InputError: A column is missing or of another kind.
            UserCodeError: The user's transformer raised (in the native form only).
        """
        require_columns(self.info.inputs, frame.columns)
        # In chunks, because a whole frame's intermediate results take gigabytes.
        parts = [self._predict_chunk(chunk) for chunk in frame.iter_slices(_CHUNK)]
        if not parts:
            return np.zeros((0, len(self.info.classes) or 1), dtype=np.float32)
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def predict_columns(self, columns: Mapping[str, npt.NDArray[Any]]) -> Prediction:
        """Returns the predictions of raw columns, without a DataFrame: the request path.

        Args:
            columns: Every raw column by name, of shape (rows, 1) or (rows,): float64 with NaN for null (numbers and
                booleans), or objects of `str` with `NULL_TOKEN` for null (categories); `columns_from_rows` makes them.

        Returns:
            As `predict`.
        """
        if self._session is None:
            return self.predict(frame_from_columns(self.info.inputs, columns))
        feeds = {}
        for name, tensor in self._tensors:
            values = columns[name]
            feeds[tensor] = values if values.ndim == 2 else values.reshape(-1, 1)
        prediction: Prediction = self._session.run(self._outputs, feeds)[0]
        return prediction

    def columns_from_rows(self, rows: Sequence[Mapping[str, Any]]) -> Columns:
        """Turns the JSON rows of a request into columns for `predict_columns`.

        Raises:
            RequestError: A row is no object, lacks a feature, has an unknown one, or holds a value of the wrong type.
        """
        return self._reader.read(rows)

    def golden(self) -> pl.DataFrame:
        """Returns the package's golden rows: raw columns, at most 20 rows.

        Raises:
            ShipwayError: They are missing or damaged.
        """
        import polars as pl

        path = self.path / _GOLDEN
        if not path.is_file():
            raise ShipwayError(f"{path}: no such file")
        try:
            return pl.read_parquet(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise ShipwayError(f"{path}: damaged: {error}") from error

    def statistics(self) -> Statistics:
        """Returns the statistics of the part that it was trained on.

        Raises:
            InputError: They are missing or damaged.
        """
        return read_document(Statistics, self.path / _STATISTICS)

    def prediction_statistics(self) -> NumberStatistics | CategoryStatistics | None:
        """Returns the statistics of its predictions of the validation part, None where an older package has none.

        Raises:
            InputError: They are damaged.
        """
        path = self.path / _PREDICTIONS
        return read_document(PredictionStatistics, path).values if path.is_file() else None

    def _predict_chunk(self, frame: pl.DataFrame) -> Prediction:
        if self._session is not None:
            columns = columns_from_frame(self.info.inputs, frame)
            pieces = [
                self.predict_columns({name: values[start : start + _GRAPH_ROWS] for name, values in columns.items()})
                for start in range(0, frame.height, _GRAPH_ROWS)
            ]
            return np.concatenate(pieces) if len(pieces) > 1 else pieces[0]
        if self._native is None:
            raise AssertionError("a package has a session or its native form")
        preprocessor, estimator = self._native
        return estimator.predict(preprocessor.transform(frame))


def build_package(
    folder: str | Path,
    *,
    preprocessor_folder: str | Path,
    estimator: Estimator,
    statistics_path: str | Path,
    check_rows: pl.DataFrame,
    trainer: str,
    predictions: Prediction | None = None,
) -> Package:
    """Writes a package and loads it.

    The ONNX graph goes in if both parts convert and it agrees with them on `check_rows`, and on a row with nulls and
    unknown categories put in; else `onnx_note` says why there is none.

    Args:
        folder: Where; replaced if it exists.
        preprocessor_folder: The fitted preprocessor's folder.
        estimator: The trained estimator.
        statistics_path: The Statistics document of the training part.
        check_rows: Raw rows of the validation part; the golden rows are drawn from them, evenly.
        trainer: sklearn or torch.
        predictions: What the estimator predicts of the validation part; None leaves its description out.

    Raises:
        InputError: There are no rows to check with, or they lack a column.
    """
    import polars as pl
    import polars.selectors as cs

    if check_rows.height == 0:
        raise InputError("the validation part has no rows to check the packaged model with")
    with atomic_folder(folder) as work:
        shutil.copytree(preprocessor_folder, work / "preprocessor", ignore=shutil.ignore_patterns("__pycache__"))
        preprocessor = load_preprocessor(work / "preprocessor")
        require_columns(preprocessor.inputs, check_rows.columns)
        rows = check_rows.select(column.name for column in preprocessor.inputs)
        (work / "estimator").mkdir()
        estimator.save(work / "estimator")
        shutil.copyfile(statistics_path, work / _STATISTICS)
        step = max(1, -(-rows.height // GOLDEN_ROWS))
        # Widened, so that the same rows give the same bytes however narrowly they were stored.
        golden = rows.gather_every(step).with_columns(cs.signed_integer().cast(pl.Int64), cs.float().cast(pl.Float64))
        golden.write_parquet(work / _GOLDEN)
        note = ""
        try:
            graph = _convert(preprocessor, estimator)
            _check_agreement(work, graph, preprocessor, estimator, rows)
        except NotConvertible as reason:
            note = reason.reason
            (work / _GRAPH).unlink(missing_ok=True)
        info = PackageInfo(
            **preprocessor.facts.model_dump(),
            inputs=preprocessor.inputs,
            features=preprocessor.features,
            trainer=trainer,
            onnx=not note,
            onnx_note=note,
            libraries=_libraries(trainer),
        )
        write_text(work / _INFO, info.model_dump_json(indent=2) + "\n")
        if predictions is not None:
            described = describe_predictions(info.task, info.classes, predictions)
            PredictionStatistics(values=described).write(work / _PREDICTIONS)
        write_text(work / "requirements.txt", "".join(f"{name}=={ver}\n" for name, ver in info.libraries.items()))
        write_mlmodel(work, info.inputs, len(info.classes) or 1, golden)
    return Package.load(folder)


def _read_info(folder: Path) -> PackageInfo:
    path = folder / _INFO
    if not path.is_file():
        raise ShipwayError(f"{folder}: not a model package (no {_INFO} in it)")
    try:
        return PackageInfo.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"]))
        raise ShipwayError(f"{path}: damaged: {where + ': ' if where else ''}{fault['msg']}") from error


def _open(folder: Path, info: PackageInfo, threads: int) -> onnxruntime.InferenceSession:
    from shipway.model.onnx_graph import open_session, tensor_name

    session = open_session(folder / _GRAPH, threads)
    found = [tensor.name for tensor in session.get_inputs()]
    if found != [tensor_name(column.name) for column in info.inputs]:
        raise ShipwayError(f"{folder / _GRAPH}: takes {', '.join(found)}, which are not the inputs that {_INFO} lists")
    return session


def _load_native(folder: Path) -> tuple[Preprocessor, Estimator]:
    from shipway.model.estimator import load_estimator

    return load_preprocessor(folder / "preprocessor"), load_estimator(folder / "estimator")


def _convert(preprocessor: Preprocessor, estimator: Estimator) -> onnx.ModelProto:
    from shipway.model.onnx_graph import compose

    return compose(preprocessor.to_onnx(), estimator.to_onnx(len(preprocessor.features)))


def _check_agreement(
    work: Path, graph: onnx.ModelProto, preprocessor: Preprocessor, estimator: Estimator, rows: pl.DataFrame
) -> None:
    """Writes the graph and compares it with the native form.

    Raises:
        NotConvertible: ONNX Runtime cannot run it, or the two differ.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    from shipway.model.onnx_graph import open_session, serialize

    write_bytes(work / _GRAPH, serialize(graph))
    try:
        session = open_session(work / _GRAPH)
    except ShipwayError as error:
        raise NotConvertible(f"ONNX Runtime cannot load the graph: {str(error).split(': ', 2)[-1]}") from error
    tensors = [tensor.name for tensor in session.get_inputs()]
    for case, frame in [("", rows), *_hard_cases(preprocessor.inputs, rows.head(1))]:
        try:
            expected = estimator.predict(preprocessor.transform(frame))
        except UserCodeError:
            if not case:
                raise
            # The user's transformer refuses such a row; the graph may do as it likes.
            continue
        columns = columns_from_frame(preprocessor.inputs, frame)
        try:
            found = session.run(None, dict(zip(tensors, columns.values(), strict=True)))[0]
        except (state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented) as error:
            raise NotConvertible(f"ONNX Runtime cannot run the graph{case}: {str(error).splitlines()[0]}") from error
        if found.shape != expected.shape:
            raise NotConvertible(f"the ONNX form gives shape {found.shape}{case}, the native form {expected.shape}")
        if not np.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
            worst = float(np.max(np.abs(found.astype(np.float64) - expected)))
            raise NotConvertible(f"the ONNX form differs from the native form by up to {worst:.3g}{case}")


def _hard_cases(inputs: Sequence[InputColumn], row: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    """Returns a row with a null, and one with an unknown category, for each column that may have one."""
    import polars as pl

    cases = []
    for column in inputs:
        if column.nullable:
            null = pl.lit(None, dtype=row.schema[column.name]).alias(column.name)
            cases.append((f" for a null in {column.name!r}", row.with_columns(null)))
        if column.kind == "category":
            unknown = pl.lit("\x1funknown\x1f").alias(column.name)
            cases.append((f" for an unknown category in {column.name!r}", row.with_columns(unknown)))
    return cases


def _libraries(trainer: str) -> dict[str, str]:
    # Without a build's own label: torch's builds for CPU and CUDA make the same model, and PyPI knows no 2.13.0+cpu.
    names = sorted((*_ALWAYS, *_LIBRARIES.get(trainer, ())))
    return {name: metadata.version(name).partition("+")[0] for name in names}
