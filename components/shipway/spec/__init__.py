"""The one file that a user writes."""

from shipway.spec.load import load_spec, override, parse_setting
from shipway.spec.metrics import METRICS, Task, higher_is_better, metric_names
from shipway.spec.model import (
    ColumnSplit,
    DataSection,
    EvaluateSection,
    FeaturesSection,
    GateRule,
    HashSplit,
    ModelSpec,
    SchemaSection,
    SklearnTrain,
    SplitSection,
    TimeSplit,
    TorchTrain,
    TrainSection,
)
from shipway.spec.parameters import (
    dump_endpoint,
    dump_section,
    load_endpoint,
    load_gates,
    load_section,
    load_split,
    load_train,
)
from shipway.spec.resources import Accelerator, KubeflowSection, Stage, StageResources, Step, VertexSection
from shipway.spec.rollout import EndpointSection, EndpointSettings, RolloutSection, Rule
from shipway.spec.watch import InferenceSection, MonitorSection, NotifySection

__all__ = [
    "METRICS",
    "Accelerator",
    "ColumnSplit",
    "DataSection",
    "EndpointSection",
    "EndpointSettings",
    "EvaluateSection",
    "FeaturesSection",
    "GateRule",
    "HashSplit",
    "InferenceSection",
    "KubeflowSection",
    "ModelSpec",
    "MonitorSection",
    "NotifySection",
    "RolloutSection",
    "Rule",
    "SchemaSection",
    "SklearnTrain",
    "SplitSection",
    "Stage",
    "StageResources",
    "Step",
    "Task",
    "TimeSplit",
    "TorchTrain",
    "TrainSection",
    "VertexSection",
    "dump_endpoint",
    "dump_section",
    "higher_is_better",
    "load_endpoint",
    "load_gates",
    "load_section",
    "load_spec",
    "load_split",
    "load_train",
    "metric_names",
    "override",
    "parse_setting",
]
