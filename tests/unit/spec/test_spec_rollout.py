"""The sections `endpoint` and `rollout`: what they mean, how they travel, and what is refused with which words."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from shipway.errors import InputError, SpecError
from shipway.spec import (
    EndpointSection,
    EndpointSettings,
    RolloutSection,
    dump_endpoint,
    dump_section,
    load_endpoint,
    load_section,
    load_spec,
)
from shipway.spec.load import json_schema
from shipway.spec.resources import DEPLOYERS
from shipway.spec.rollout import default_rules

SPEC = """\
name: birds
task: binary
data: {uri: "data/*.parquet", label: late, key: id}
schema: {pandera: schema.yaml}
split: {by: hash}
train: {trainer: torch}
endpoint:
  sticky: header:x-user
  log: {share: 0.5}
rollout:
  shadow: {percent: 10}
  steps: [5, 100]
  rules:
    - {metric: error_rate, max: 0.02, for: 5m}
    - {metric: business.clicks, max_drop: 0.1, action: halt}
  outcomes:
    uri: s3://bucket/outcomes/*.parquet
    business: {clicks: clicked}
  approval: required
  approvers: ada
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "shipway.yaml"
    path.write_text(SPEC)
    return path


def refused(path: Path, *settings: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path, settings)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1, lines
    return lines[0].removeprefix(f"{path}:")


def test_it_is_read_and_its_rules_have_their_times(spec_file: Path) -> None:
    section = load_spec(spec_file).rollout
    assert [(rule.metric, rule.seconds) for rule in section.rules] == [("error_rate", 300), ("business.clicks", 0)]
    assert section.approvers == ["ada"]
    # A shadow of 10 minutes, two steps of 10 minutes, 10 minutes in which the old version stays.
    assert section.least_seconds == 40 * 60


def test_without_the_sections_the_defaults_hold(spec_file: Path) -> None:
    spec_file.write_text(SPEC.partition("endpoint:")[0])
    spec = load_spec(spec_file)
    assert (spec.endpoint.kind, spec.rollout.strategy, spec.rollout.steps) == (None, "canary", [1, 5, 25, 100])
    assert spec.rollout.rules == default_rules()


@pytest.mark.parametrize("settings", [[], ["rollout.rules=[]"], ["rollout.shadow=null", "rollout.baseline=fresh"]])
def test_the_section_survives_the_way_through_a_pipeline_parameter(spec_file: Path, settings: list[str]) -> None:
    section = load_spec(spec_file, settings).rollout
    text = dump_section(section)
    assert "for_" not in text
    assert load_section(RolloutSection, text) == section


def test_an_endpoints_settings_survive_it_too(spec_file: Path) -> None:
    endpoint = load_spec(spec_file, ["endpoint.kind=kserve", "endpoint.control=s3://b/c", LOG, PROMETHEUS]).endpoint
    settings = EndpointSettings(endpoint=endpoint, image="registry/server:1")
    assert load_endpoint(dump_endpoint(settings)) == settings


def test_an_apostrophe_does_not_hide_the_endpoint_from_kfps_local_runner() -> None:
    """It evaluates the condition with the value between apostrophes; what it cannot read it takes for false."""
    from kfp.local import io
    from kfp.local.orchestrator.enhanced_dag_orchestrator import ConditionEvaluator

    section = EndpointSection(kind="local", flag="it's", flag_provider='flags.py:"make"')
    text = dump_endpoint(EndpointSettings(endpoint=section))
    assert load_endpoint(text).endpoint.flag == "it's"
    condition = "inputs.parameter_values['pipelinechannel--endpoint'] != ''"
    for value, there in ((text, True), ("", False)):
        store = io.IOStore()
        store.put_parent_input("endpoint", value)
        assert ConditionEvaluator().evaluate_condition(condition, store) is there


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "endpoint: nowhere; the spec's endpoint.kind says where"),
        ("{", "endpoint: no settings of an endpoint: Invalid JSON"),
        ('{"endpoint": {"kind": "cloud"}}', "endpoint.endpoint.kind: no settings of an endpoint: Input should be"),
        ('{"endpoint": {}}', "its settings name no kind; expected local, kserve or vertex"),
    ],
)
def test_malformed_settings_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_endpoint(text)
    assert said in str(caught.value)


LOG = "endpoint.log.uri=s3://b/l"
PROMETHEUS = "endpoint.kserve.prometheus=http://prometheus:9090"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["rollout.rules.0.for=soon"],
            "14: rollout.rules.0.for: expected a number and s, m, h or d, as 5m, or 0s, found",
        ),
        (["rollout.rules.0.fro=5m"], "14: rollout.rules.0.fro: unknown key; did you mean 'for'?"),
        (
            ["rollout.rules.0.metric=errors"],
            "14: rollout.rules.0.metric: expected error_rate, latency_p99_ms, psi, auc or",
        ),
        (
            ["rollout.rules.0.max_ratio=2"],
            "14: rollout.rules.0: a rule has one of max, max_ratio and max_drop, found max,",
        ),
        (["rollout.rules.1.metric=auc", "rollout.rules.1.max=2"], "15: rollout.rules.1: a rule has one of"),
        (["rollout.rules.1.metric=business.sales"], "13: rollout.rules: business.sales is not among outcomes.business"),
        (["rollout.steps=[5, 50]"], "12: rollout.steps: expected rising percents that end with 100, found [5, 50]"),
        (["rollout.steps=[5, 500]"], "12: rollout.steps.1: expected less than or equal to 100, found 500"),
        (["rollout.shadow.percents=5"], "11: rollout.shadow.percents: unknown key; did you mean 'percent'?"),
        (["rollout.strategy=blue-green"], "rollout.strategy: expected 'canary', 'blue_green' or 'shadow', found"),
        (["rollout.bake=2h"], "rollout: patience is shorter than bake"),
        (["rollout.environment=staging"], "rollout.environment: expected OWNER/REPOSITORY:ENVIRONMENT, found"),
        (["rollout.approvers=[]"], "rollout: approval is required, but approvers and environment are both empty"),
        (
            ["endpoint.sticky=cookie:user"],
            "8: endpoint.sticky: expected header:NAME, parameter:NAME or column:NAME, found",
        ),
        (["endpoint.flag=model"], "endpoint: flag and flag_provider belong together"),
        (["endpoint.kserve={min_replicas: 4}"], "endpoint.kserve.max_replicas is below kserve.min_replicas"),
        (["endpoint.kserve.mode=knative"], "endpoint.kserve.mode: expected 'raw' or 'serverless', found"),
        (
            ["endpoint.sticky=null"],
            "8: endpoint.sticky: missing, and rollout.outcomes are joined by the key that it names",
        ),
        (["endpoint.log.share=0"], "9: endpoint.log.share: 0, and rollout.outcomes needs the prediction log"),
        (["endpoint.kind=kserve", PROMETHEUS, LOG], "endpoint.control: missing, and on kserve"),
        (["endpoint.kind=vertex", LOG], "endpoint.control: missing, and on vertex"),
        (
            ["endpoint.kind=kserve", "endpoint.control=s3://b/c", LOG],
            "endpoint.kserve.prometheus",
        ),
        (
            ["endpoint.kind=vertex", "endpoint.control=s3://b/c"],
            "endpoint.log.uri: missing, and rollout.outcomes needs",
        ),
        (["resources.rollout.timeout=30m"], "resources.rollout.timeout: 30m would cut off the rollout"),
        (
            ["resources.smoke.image=trainer"],
            "resources.smoke.image: smoke runs in image deployer alone, found 'trainer'",
        ),
    ],
)
def test_each_fault_is_named_with_its_place(spec_file: Path, settings: list[str], said: str) -> None:
    assert said in refused(spec_file, *settings)


def test_a_fresh_baseline_needs_more_revisions_than_serverless_has(spec_file: Path) -> None:
    fresh = ["rollout.baseline=fresh", "rollout.shadow=null", "rollout.outcomes=null", "rollout.rules=[]"]
    served = [*fresh, "endpoint.kind=kserve", PROMETHEUS]
    assert load_spec(spec_file, served).endpoint.kserve.mode == "raw"
    assert "rollout.baseline: fresh needs three revisions at once" in refused(
        spec_file, *served, "endpoint.kserve.mode=serverless"
    )


def test_what_a_rollout_would_need_is_not_asked_of_a_spec_without_one(spec_file: Path) -> None:
    spec_file.write_text(SPEC.partition("rollout:")[0])
    assert load_spec(spec_file, ["endpoint.kind=kserve"]).endpoint.kind == "kserve"


def test_the_image_and_timeout_of_the_default_leave_a_rollout_alone(spec_file: Path) -> None:
    spec = load_spec(spec_file, ["resources.default={image: trainer, timeout: 1h, cpu: 2}"])
    assert {spec.resources_of(step).image for step in (*DEPLOYERS, "monitor")} == {None}
    found = spec.resources_of("rollout")
    assert (found.timeout, found.cpu, spec.resources_of("rollback").timeout) == (None, "2", "1h")


def test_the_json_schema_holds_what_the_loader_takes() -> None:
    schema = json_schema()
    values = yaml.safe_load(SPEC)
    values["rollout"]["approvers"] = ["ada"]
    values["data"]["key"] = ["id"]
    jsonschema.validate(values, schema)
    rule = schema["$defs"]["Rule"]["properties"]
    assert {"for", "metric", "dry_run"} <= set(rule)
    assert "for_" not in rule
    values["rollout"]["rules"][0]["fro"] = "5m"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(json.loads(json.dumps(values)), schema)
