"""A trained torch network, saved as safetensors with its architecture in JSON."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from shipway.errors import InputError, ShipwayError
from shipway.lineage.files import write_bytes
from shipway.lineage.project import user_code
from shipway.model.estimator import (
    EstimatorState,
    check_width,
    copy_entry,
    finish_graph,
    read_state,
    write_state,
)
from shipway.model.onnx_graph import OPSET
from shipway.model.user_files import CODE_FOLDER, import_code

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

_WEIGHTS_FILE = "weights.safetensors"
_BATCH_ROWS = 65_536

Tensors = Mapping[str, "torch.Tensor"]
NetworkFactory = Callable[[int, int], Any]


class TorchState(EstimatorState):
    """`estimator.json` of a torch network, enough to build it again.

    Attributes:
        hidden: Widths of the hidden layers, where the network is Shipway's own.
        dropout: Share of hidden units left out while training.
        network: FILE.py:FUNCTION in `code/` that builds the user's network, or "" for Shipway's own.
        code: The user's files in `code/` that the network needs.
        target_mean: Mean of the training target (regression); predictions are `output * target_std + target_mean`.
        target_std: Standard deviation of the training target (regression).
    """

    kind: Literal["torch"] = "torch"
    hidden: list[int] = Field(default_factory=list)
    dropout: float = 0.0
    network: str = ""
    code: list[str] = Field(default_factory=list)
    target_mean: float = 0.0
    target_std: float = 1.0


class TorchEstimator:
    """Predicts with a network's softmax, or with its value scaled back to the target's units.

    Args:
        state: The architecture and the target's scale.
        weights: The network's state by name.
        source: The user's file that builds the network, where it is not Shipway's own.
        factory: The function in it; None when it is still to be imported from a saved estimator's `code`.
    """

    def __init__(
        self, state: TorchState, weights: Tensors, source: Path | None = None, factory: NetworkFactory | None = None
    ) -> None:
        self._state = state
        self._weights = dict(weights)
        self._source = source
        self._factory = factory
        self._network: torch.nn.Module | None = None

    @classmethod
    def load(cls, folder: Path) -> TorchEstimator:
        """Loads an estimator from its folder; the user's code runs with the first prediction.

        Raises:
            ShipwayError: A file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        state = read_state(TorchState, folder)
        source = folder / CODE_FOLDER / state.network.partition(":")[0] if state.network else None
        path = folder / _WEIGHTS_FILE
        for file in (path, source):
            if file is not None and not file.is_file():
                raise ShipwayError(f"{file}: no such file; the estimator needs it")
        try:
            weights = load(path.read_bytes())
        except (SafetensorError, ValueError) as error:
            raise ShipwayError(f"{path}: damaged: {error}") from error
        return cls(state, weights, source)

    def predict(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.floating[Any]]:
        """Returns probabilities of shape (rows, classes), or values of shape (rows, 1)."""
        import torch

        check_width(features, self._state.inputs)
        network = self.network()
        matrix = torch.from_numpy(np.array(features, dtype=np.float32, order="C"))
        parts: list[npt.NDArray[np.floating[Any]]] = []
        with torch.inference_mode(), self._explained():
            for start in range(0, len(matrix), _BATCH_ROWS):
                logits = network(matrix[start : start + _BATCH_ROWS])
                if self._state.task == "regression":
                    scaled = logits.numpy().astype(np.float64) * self._state.target_std + self._state.target_mean
                    parts.append(scaled.reshape(-1, 1))
                else:
                    parts.append(torch.softmax(logits, dim=1).numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self._state.outputs), dtype=np.float32)

    def save(self, folder: Path) -> None:
        """Writes the estimator's folder."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / _WEIGHTS_FILE, save(dict(self._weights)))
        code = copy_entry(self._source, folder) if self._source is not None else []
        write_state(self._state.model_copy(update={"code": code}), folder)

    def to_onnx(self, n_features: int) -> onnx.ModelProto:
        """Returns the network as a graph from `features` to `prediction`.

        Shipway's own network is written node by node, which takes milliseconds; torch's exporter, which takes seconds,
        is for the user's.

        Raises:
            NotConvertible: torch's exporter refuses the user's network.
        """
        return self._export(n_features) if self._state.network else self._own_graph(n_features)

    def network(self) -> torch.nn.Module:
        """Returns the network with its weights, on the CPU and in evaluation mode.

        Raises:
            UserCodeError: The user's function raised.
            ShipwayError: The weights do not fit the network.
        """
        if self._network is None:
            if self._source is not None and self._factory is None:
                self._factory = self._import_factory(self._source)
            network = build_network(self._state, self._factory)
            try:
                network.load_state_dict(self._weights)
            except RuntimeError as error:
                reason = " ".join(str(error).split())
                raise ShipwayError(f"the weights do not fit the network of {self._name()}: {reason}") from error
            self._network = network.eval()
        return self._network

    def _import_factory(self, source: Path) -> NetworkFactory:
        import_code(source.parent.parent, self._state.code)
        name = self._state.network.partition(":")[2]
        factory = getattr(sys.modules[source.stem], name, None)
        if factory is None:
            raise ShipwayError(f"{source}: it has no {name!r}")
        return cast("NetworkFactory", factory)

    def _name(self) -> str:
        return self._state.network or "Shipway"

    def _explained(self) -> Any:
        return user_code(f"train.network {self._name()}")

    def _own_graph(self, n_features: int) -> onnx.ModelProto:
        from onnx import helper, numpy_helper

        nodes: list[onnx.NodeProto] = []
        tensors: list[onnx.TensorProto] = []
        value = "features"
        layers = sorted({int(name.partition(".")[0]) for name in self._weights})
        for position, layer in enumerate(layers):
            names = [f"weight_{position}", f"bias_{position}"]
            for name, key in zip(names, ("weight", "bias"), strict=True):
                tensors.append(numpy_helper.from_array(self._weights[f"{layer}.{key}"].numpy(), name))
            last = position == len(layers) - 1
            output = "logits" if last else f"linear_{position}"
            nodes.append(helper.make_node("Gemm", [value, *names], [output], transB=1))
            if not last:
                value = f"hidden_{position}"
                nodes.append(helper.make_node("Relu", [output], [value]))
        if self._state.task == "regression":
            scale = {"target_std": self._state.target_std, "target_mean": self._state.target_mean}
            tensors += [numpy_helper.from_array(np.array([number], np.float32), name) for name, number in scale.items()]
            nodes.append(helper.make_node("Mul", ["logits", "target_std"], ["scaled"]))
            nodes.append(helper.make_node("Add", ["scaled", "target_mean"], ["prediction"]))
        else:
            nodes.append(helper.make_node("Softmax", ["logits"], ["prediction"], axis=1))
        graph = helper.make_graph(nodes, "estimator", [], [], tensors)
        return finish_graph(helper.make_model(graph), "prediction", n_features, self._state.outputs)

    def _export(self, n_features: int) -> onnx.ModelProto:
        import torch

        from shipway.model.preprocessor import NotConvertible

        state, network = self._state, self.network()

        class Whole(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.network = network

            def forward(self, features: torch.Tensor) -> torch.Tensor:
                logits = self.network(features)
                if state.task == "regression":
                    return torch.reshape(logits, (-1, 1)) * state.target_std + state.target_mean
                return torch.softmax(logits, dim=1)

        logger = logging.getLogger("torch.onnx")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    Whole().eval(),
                    (torch.zeros(2, n_features),),
                    dynamo=True,
                    input_names=["features"],
                    output_names=["prediction"],
                    dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                    opset_version=OPSET,
                    verbose=False,
                )
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [""])[0]
            raise NotConvertible(f"torch's exporter refuses {state.network}: {reason}") from error
        finally:
            logger.setLevel(level)
        if program is None:
            raise NotConvertible(f"torch's exporter gave nothing for {state.network}")
        return finish_graph(program.model_proto, "prediction", n_features, state.outputs)


def build_network(state: TorchState, factory: NetworkFactory | None = None) -> torch.nn.Module:
    """Builds an untrained network.

    Args:
        state: The architecture.
        factory: The user's function that `state.network` names.

    Raises:
        InputError: The user's function is none, or returns no module.
        UserCodeError: The user's code raised.
    """
    import torch

    if not state.network:
        layers: list[torch.nn.Module] = []
        width = state.inputs
        for hidden in state.hidden:
            layers += [torch.nn.Linear(width, hidden), torch.nn.ReLU()]
            if state.dropout:
                layers.append(torch.nn.Dropout(state.dropout))
            width = hidden
        return torch.nn.Sequential(*layers, torch.nn.Linear(width, state.outputs))
    if not callable(factory):
        raise InputError(f"train.network {state.network}: expected a function, found {type(factory).__name__}")
    with user_code(f"train.network {state.network}"):
        network = factory(state.inputs, state.outputs)
    if not isinstance(network, torch.nn.Module):
        raise InputError(f"train.network {state.network}: expected a torch.nn.Module, found {type(network).__name__}")
    return network
