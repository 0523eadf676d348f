"""Estimator: what turns features into predictions, and travels inside the model package.

Its folder holds `estimator.json` with `kind`, `task`, `inputs` (width of the features) and `outputs` (width of the
prediction), what the kind needs besides, and `code/` with the user's own file where one is needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import write_text
from shipway.model.onnx_graph import IR_VERSION, OPSET, OPSET_ML
from shipway.model.user_files import copy_code

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx

ESTIMATOR_FILE = "estimator.json"

Task = Literal["binary", "multiclass", "regression"]


class EstimatorState(BaseModel):
    """What `estimator.json` says of every kind of estimator."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = 1
    kind: str
    task: Task
    inputs: int = Field(ge=1)
    outputs: int = Field(ge=1)


S = TypeVar("S", bound=EstimatorState)


class Estimator(Protocol):
    """Turns a float32 matrix into probabilities or values."""

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
        """Returns the prediction of features of shape (rows, inputs).

        Returns:
            Shape (rows, classes), each row the classes' probabilities; (rows, 1) values for regression.
        """

    def save(self, folder: Path) -> None:
        """Writes the estimator's folder; the same bytes for the same state."""

    def to_onnx(self, n_features: int) -> onnx.ModelProto:
        """Returns a graph of the same prediction.

        Its input is `features`, float [None, n_features]; its output `prediction`, float [None, outputs].

        Raises:
            NotConvertible: There is no such graph.
        """


def load_estimator(folder: str | Path) -> Estimator:
    """Loads an estimator from its folder.

    Raises:
        ShipwayError: The folder is missing a file, or holds a damaged one.
        UserCodeError: The user's code in it raised.
    """
    path = Path(folder)
    kind = read_state(_AnyKind, path).kind
    if kind == "sklearn":
        from shipway.model.sklearn_estimator import SklearnEstimator

        return SklearnEstimator.load(path)
    if kind == "torch":
        from shipway.model.torch_estimator import TorchEstimator

        return TorchEstimator.load(path)
    raise ShipwayError(f"{path / ESTIMATOR_FILE}: unknown kind of estimator {kind!r}; there are sklearn and torch")


def read_state(kind: type[S], folder: Path) -> S:
    """Reads `estimator.json`.

    Raises:
        ShipwayError: It is missing or damaged.
    """
    path = folder / ESTIMATOR_FILE
    if not path.is_file():
        raise ShipwayError(f"{folder}: no estimator (no {ESTIMATOR_FILE} in it)")
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "document"
        raise ShipwayError(f"{path}: damaged: {where}: {fault['msg']}") from error


def write_state(state: EstimatorState, folder: Path) -> None:
    """Writes `estimator.json`, always the same bytes for the same state."""
    write_text(folder / ESTIMATOR_FILE, state.model_dump_json(indent=2) + "\n")


def check_width(features: npt.NDArray[np.float32], inputs: int) -> None:
    """Refuses features of another shape than the estimator was trained on.

    Raises:
        InputError: They are no matrix with `inputs` columns.
    """
    if features.ndim != 2 or features.shape[1] != inputs:
        raise InputError(f"features of shape {features.shape}: the estimator takes (rows, {inputs})")


def copy_entry(entry: Path, folder: Path) -> list[str]:
    """Copies a user's file and those that it imports to `folder/code`; returns their paths in it, the file's first."""
    files = copy_code(entry, folder)
    return [entry.name, *(name for name in files if name != entry.name)]


def finish_graph(model: onnx.ModelProto, output: str, inputs: int, outputs: int) -> onnx.ModelProto:
    """Returns a converter's graph in the house form: one input, one output, and nothing that varies or is not needed.

    Args:
        model: The graph; its input is named `features`.
        output: The name of the output that becomes `prediction`; others go, with what computes them alone.
        inputs: Number of features.
        outputs: Width of the prediction.
    """
    from onnx import TensorProto, helper

    needed, nodes = {output}, []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(_consumed(node))
            nodes.append(node)
    nodes.reverse()
    # Converters number their values by what they converted before, or by addresses.
    names = {"": "", "features": "features", output: "prediction"}
    for tensor in model.graph.initializer:
        if tensor.name in needed:
            tensor.name = names.setdefault(tensor.name, f"constant{len(names)}")
    _rename(nodes, names)
    kept = set(names.values())
    graph = helper.make_graph(
        nodes,
        "estimator",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", inputs])],
        [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["rows", outputs])],
        [tensor for tensor in model.graph.initializer if tensor.name in kept],
    )
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    domains = {"": OPSET, "ai.onnx.ml": OPSET_ML}
    domains |= {entry.domain: entry.version for entry in model.opset_import if entry.domain not in domains}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(
        graph, opset_imports=opsets, functions=list(model.functions), ir_version=IR_VERSION, producer_name="shipway"
    )


def _rename(nodes: Iterable[onnx.NodeProto], names: dict[str, str]) -> None:
    """Names the values of nodes, and of their subgraphs, by the order in which they come; adds to `names`."""

    def new(name: str) -> str:
        return names.setdefault(name, f"value{len(names)}")

    for node in nodes:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [new(name) for name in node.input]
        for attribute in node.attribute:
            for graph in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                graph.name, graph.doc_string = "body", ""
                del graph.value_info[:]
                for entry in (*graph.initializer, *graph.input):
                    entry.name = new(entry.name)
                _rename(graph.node, names)
                for entry in graph.output:
                    entry.name = new(entry.name)
        node.output[:] = [new(name) for name in node.output]


def _consumed(node: onnx.NodeProto) -> set[str]:
    """Returns the names of the values that a node takes, those that its subgraphs take included."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in graph.node:
                names |= _consumed(inner)
            names |= {value.name for value in graph.output}
    return names


class _AnyKind(EstimatorState):
    model_config = ConfigDict(extra="ignore", frozen=True)
