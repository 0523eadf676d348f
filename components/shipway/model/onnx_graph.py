"""ONNX graphs: the default preprocessor's, the composition with an estimator's, and the session that runs it.

The composed graph takes raw columns and gives `prediction`. Its bytes depend on the model alone: nodes are numbered
anew, and doc strings, paths, stack traces and producers are gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shipway.errors import ShipwayError
from shipway.model.preprocessor import NotConvertible
from shipway.model.signature import InputColumn

if TYPE_CHECKING:
    import onnx
    import onnxruntime

    from shipway.model.tabular import TabularPreprocessor

OPSET = 21
OPSET_ML = 3
IR_VERSION = 10
"""What preprocessors' graphs are written for; ONNX Runtime has all three since 1.18."""

FEATURES = "features"
PREDICTION = "prediction"
_INNER = "shipway/"
_ML = "ai.onnx.ml"


def tensor_name(column: str) -> str:
    """Returns the graph's name for a raw column: its own name, unless a graph's own values are called so."""
    return f"{column}/input" if column in (FEATURES, PREDICTION) or column.startswith(_INNER) else column


def input_infos(inputs: Sequence[InputColumn]) -> list[Any]:
    """Returns the graph inputs for raw columns: [None, 1], double or string."""
    from onnx import TensorProto, helper

    return [
        helper.make_tensor_value_info(
            tensor_name(column.name),
            TensorProto.STRING if column.kind == "category" else TensorProto.DOUBLE,
            [None, 1],
        )
        for column in inputs
    ]


def tabular_graph(preprocessor: TabularPreprocessor) -> onnx.ModelProto:
    """Returns the default preprocessor as a graph from raw columns to `features`.

    Numbers are joined first and treated as one matrix, which keeps the count of nodes (a microsecond each) low.
    """
    from onnx import TensorProto, helper, numpy_helper

    from shipway.model.tabular import LIMIT

    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, values: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values), _INNER + name))
        return _INNER + name

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [_INNER + output], **attributes))
        return _INNER + output

    blocks: list[str] = []
    numbers = preprocessor.numbers
    if numbers:
        raw = node("Concat", [tensor_name(number.column) for number in numbers], "numbers", axis=1)
        missing = node("IsNaN", [raw], "missing")
        imputed = node("Where", [missing, constant("impute", [[n.impute for n in numbers]]), raw], "imputed")
        centred = node("Sub", [imputed, constant("mean", [[n.mean for n in numbers]])], "centred")
        scaled = node("Div", [centred, constant("std", [[n.std for n in numbers]])], "scaled")
        low, high = constant("low", np.float64(-LIMIT)), constant("high", np.float64(LIMIT))
        clipped = node("Clip", [scaled, low, high], "clipped")
        blocks.append(node("Cast", [clipped], "numbers32", to=TensorProto.FLOAT))
        marked = [position for position, number in enumerate(numbers) if number.indicator]
        if marked:
            chosen = node("Gather", [missing, constant("marked", np.array(marked, dtype=np.int64))], "chosen", axis=1)
            blocks.append(node("Cast", [chosen], "indicators", to=TensorProto.FLOAT))
    if preprocessor.categories:
        off_on = constant("off_on", np.array([0.0, 1.0], dtype=np.float32))
        hot: list[str] = []
        for position, category in enumerate(preprocessor.categories):
            texts, codes = category.codes()
            name = tensor_name(category.column)
            if texts:
                code = node(
                    "LabelEncoder", [name], f"code{position}", domain=_ML,
                    keys_strings=texts, values_int64s=codes, default_int64=category.other,
                )  # fmt: skip
            else:
                # Every value is "other"; an encoder without keys is not allowed.
                code = node(
                    "LabelEncoder", [name], f"code{position}", domain=_ML,
                    keys_strings=[""], values_int64s=[category.other], default_int64=category.other,
                )  # fmt: skip
            depth = constant(f"depth{position}", np.array(category.width, dtype=np.int64))
            hot.append(node("OneHot", [code, depth, off_on], f"hot{position}", axis=-1))
        joined = node("Concat", hot, "hot", axis=2)
        blocks.append(node("Squeeze", [joined, constant("axis", np.array([1], dtype=np.int64))], "categories"))
    nodes.append(helper.make_node("Concat", blocks, [FEATURES], axis=1))
    output = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, len(preprocessor.features)])
    graph = helper.make_graph(nodes, "shipway", input_infos(preprocessor.inputs), [output], constants)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(_ML, OPSET_ML)]
    return clean(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION))


def transformer_graph(transformer: Any, inputs: Sequence[InputColumn], width: int) -> onnx.ModelProto:
    """Returns a fitted scikit-learn transformer as a graph from raw columns to `features`.

    It computes in float64 as scikit-learn does, or in float32 where ONNX Runtime lacks an operator for float64 (the
    Imputer, for one); packaging checks that the difference does not matter.

    Raises:
        NotConvertible: skl2onnx does not know a part of it, or ONNX Runtime cannot run what it gives.
    """
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    reason = ""
    for number_type in (DoubleTensorType, FloatTensorType):
        model = _converted(transformer, inputs, width, number_type)
        try:
            _session(serialize(model), "the transformer's graph")
        except ShipwayError as error:
            reason = str(error)
        else:
            return model
    raise NotConvertible(f"features.transformer: {reason}")


def _converted(transformer: Any, inputs: Sequence[InputColumn], width: int, number_type: Any) -> onnx.ModelProto:
    from onnx import TensorProto, compose, helper
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    element = TensorProto.FLOAT if number_type is FloatTensorType else TensorProto.DOUBLE
    names = [tensor_name(column.name) for column in inputs]
    nodes = [
        helper.make_node("Identity", [name], [f"{_INNER}raw/{position}"])
        if column.kind == "category"
        else helper.make_node("Cast", [name], [f"{_INNER}raw/{position}"], to=element)
        for position, (name, column) in enumerate(zip(names, inputs, strict=True))
    ]
    if not _selects_columns(transformer) and all(column.kind != "category" for column in inputs):
        types = [("joined", number_type([None, len(inputs)]))]
        nodes.append(helper.make_node("Concat", [node.output[0] for node in nodes], [f"{_INNER}raw/joined"], axis=1))
        given = [f"{_INNER}raw/joined"]
    else:
        types = [
            (column.name, StringTensorType([None, 1]) if column.kind == "category" else number_type([None, 1]))
            for column in inputs
        ]
        given = [node.output[0] for node in nodes]
    try:
        model = convert_sklearn(transformer, "preprocessor", types, target_opset={"": OPSET, _ML: OPSET_ML})
    except (RuntimeError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError, ImportError) as error:
        raise NotConvertible(
            f"features.transformer: skl2onnx cannot convert {type(transformer).__name__}: {_first_line(error)}"
        ) from error
    if len(model.graph.input) != len(given):
        raise NotConvertible(f"features.transformer: skl2onnx lost inputs of {type(transformer).__name__}")
    model = compose.add_prefix(model, _INNER)
    # skl2onnx gives the inputs other names where a column's is no identifier, and keeps their order.
    nodes += [
        helper.make_node("Identity", [name], [tensor.name])
        for name, tensor in zip(given, model.graph.input, strict=True)
    ]
    nodes += model.graph.node
    nodes.append(helper.make_node("Cast", [model.graph.output[0].name], [FEATURES], to=TensorProto.FLOAT))
    del model.graph.node[:], model.graph.input[:], model.graph.output[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(input_infos(inputs))
    model.graph.output.append(helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [None, width]))
    return clean(model)


def _selects_columns(transformer: Any) -> bool:
    """Tells whether a transformer begins with a ColumnTransformer, which takes its columns by name."""
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import FeatureUnion, Pipeline

    if isinstance(transformer, Pipeline):
        return _selects_columns(transformer.steps[0][1])
    if isinstance(transformer, FeatureUnion):
        return any(_selects_columns(part) for _, part in transformer.transformer_list)
    return isinstance(transformer, ColumnTransformer)


def compose(preprocessor: onnx.ModelProto, estimator: onnx.ModelProto) -> onnx.ModelProto:
    """Joins `raw columns -> features` and `features -> prediction` into one graph.

    Raises:
        NotConvertible: The two cannot be joined, or the result is not a valid graph.
    """
    from onnx import ModelProto, checker, compose, defs, inliner, shape_inference, version_converter

    parts: list[ModelProto] = []
    for part in (preprocessor, estimator):
        copy = ModelProto()
        copy.CopyFrom(inliner.inline_local_functions(part) if part.functions else part)
        parts.append(copy)
    try:
        first, second = _align(*parts)
        first = compose.add_prefix(first, _INNER + "pre/", rename_inputs=False)
        second = compose.add_prefix(second, _INNER + "est/", rename_outputs=False)
        for model in (first, second):
            del model.graph.value_info[:]
        link = (first.graph.output[0].name, second.graph.input[0].name)
        model = clean(compose.merge_models(first, second, io_map=[link]))
        checker.check_model(model, full_check=True)
    except (
        ValueError, TypeError, RuntimeError, checker.ValidationError, shape_inference.InferenceError,
        version_converter.ConvertError, defs.SchemaError,
    ) as error:  # fmt: skip
        raise NotConvertible(f"the graphs cannot be joined: {_first_line(error)}") from error
    return model


def clean(model: onnx.ModelProto) -> onnx.ModelProto:
    """Removes, in place, what depends on how and where a graph was made; numbers its nodes anew."""
    from onnx import helper

    model.producer_name, model.producer_version, model.domain, model.model_version = "shipway", "", "", 0
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.name = "shipway"
    _clean_graph(model.graph, "")
    opsets = sorted((entry.domain, entry.version) for entry in model.opset_import)
    used = {""} | {node.domain for node in _nodes(model.graph)}
    del model.opset_import[:]
    model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in opsets if domain in used)
    return model


def serialize(model: onnx.ModelProto) -> bytes:
    """Returns the graph's bytes, always the same for the same graph."""
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def open_session(path: str | Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """Loads a graph for running on the CPU.

    Args:
        path: The `.onnx` file.
        threads: Threads of one call.

    Raises:
        ShipwayError: The file is missing or damaged.
    """
    if not Path(path).is_file():
        raise ShipwayError(f"{path}: no such file")
    return _session(str(path), str(path), threads)


def _session(source: str | bytes, name: str, threads: int = 1) -> onnxruntime.InferenceSession:
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])
    except (
        state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf, state.NotImplemented,
        state.RuntimeException,
    ) as error:  # fmt: skip
        raise ShipwayError(f"{name}: damaged, or not for this ONNX Runtime: {_first_line(error)}") from error


def _align(first: onnx.ModelProto, second: onnx.ModelProto) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """Returns two models with the same opset and IR versions, the higher ones of both.

    Raises:
        NotConvertible: An operator changed between their opsets, and ONNX cannot convert it.
    """
    from onnx import helper, version_converter

    versions: dict[str, int] = {}
    for entry in (*first.opset_import, *second.opset_import):
        versions[entry.domain] = max(entry.version, versions.get(entry.domain, 1))
    aligned = []
    for given in (first, second):
        model = given
        changed = _changed_operators(model, versions)
        if changed and all(domain == "" for domain, _ in changed):
            model = version_converter.convert_version(model, versions[""])
        elif changed:
            names = ", ".join(sorted({operator for _, operator in changed}))
            raise NotConvertible(f"{names} differs between the operator sets of the two graphs")
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in sorted(versions.items()))
        model.ir_version = max(first.ir_version, second.ir_version)
        aligned.append(model)
    return aligned[0], aligned[1]


def _changed_operators(model: onnx.ModelProto, versions: dict[str, int]) -> set[tuple[str, str]]:
    """Returns the operators (domain, name) that are not the same in the opsets `versions` as in the model's own."""
    from onnx import defs

    own = {entry.domain: entry.version for entry in model.opset_import}
    changed = set()
    for node in _nodes(model.graph):
        before, after = own.get(node.domain, 1), versions[node.domain]
        since = {defs.get_schema(node.op_type, version, node.domain).since_version for version in (before, after)}
        if len(since) > 1:
            changed.add((node.domain, node.op_type))
    return changed


def _nodes(graph: Any) -> list[Any]:
    found = []
    for node in graph.node:
        found.append(node)
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                found += _nodes(inner)
    return found


def _clean_graph(graph: Any, prefix: str) -> None:
    graph.doc_string = ""
    del graph.metadata_props[:]
    del graph.value_info[:]
    del graph.quantization_annotation[:]
    for entry in (*graph.input, *graph.output, *graph.initializer):
        entry.doc_string = ""
        del entry.metadata_props[:]
    for position, node in enumerate(graph.node):
        node.name = f"{prefix}{position}-{node.op_type}"
        node.doc_string = ""
        del node.metadata_props[:]
        for attribute in node.attribute:
            attribute.doc_string = ""
            inner = ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs)
            for number, subgraph in enumerate(inner):
                subgraph.name = f"{node.name}-{number}"
                _clean_graph(subgraph, f"{node.name}-{number}/")


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
