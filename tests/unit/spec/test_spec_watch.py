"""The sections inference, monitor and notify: what is refused, and what survives the way through a pipeline."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from shipway.errors import SpecError
from shipway.lineage.project import PROJECT_VARIABLE
from shipway.platforms.arguments import check_columns
from shipway.spec import dump_section, load_section, load_spec
from shipway.spec.watch import EventSink, GitHubIssues, MonitorSection, NotifySection


def test_a_null_that_switches_a_default_off_survives():
    monitor = MonitorSection.model_validate({"thresholds": {"psi": None}, "columns": {"x": {"null_share": None}}})
    notify = NotifySection.model_validate({"events": {"url": "http://127.0.0.1:8090/hooks/shipway", "token": None}})
    assert load_section(MonitorSection, dump_section(monitor)) == monitor
    assert load_section(NotifySection, dump_section(notify)) == notify


def test_the_variables_of_notify_are_named_once_each():
    notify = NotifySection.model_validate(
        {"github": {"repository": "acme/models"}, "events": {"url": "https://trigger.example.com/hooks/shipway"}}
    )
    assert notify.variables == ["SHIPWAY_NOTIFY_URLS", "SHIPWAY_GITHUB_TOKEN", "SHIPWAY_EVENTS_TOKEN"]
    assert NotifySection(urls="MINE").variables == ["MINE"]


@pytest.mark.parametrize(
    "address", ["trigger.example.com", "ftp://x/y", "https://ann:secret@x/y", "https://x y", "https://", "file:///x"]
)
def test_an_address_is_one_of_http_without_a_password(address):
    with pytest.raises(ValidationError):
        EventSink(url=address)
    with pytest.raises(ValidationError):
        GitHubIssues(repository="acme/models", api=address)


@pytest.mark.parametrize(
    "part", [{"on": ["drifted"]}, {"urls": "slack://T/B/C"}, {"github": {"repository": "models"}}, {"mail": "ann@x"}]
)
def test_what_notify_does_not_know_is_refused(part):
    with pytest.raises(ValidationError):
        NotifySection.model_validate(part)


PENGUINS = Path(__file__).parents[3] / "pipelines" / "examples" / "penguins" / "shipway.yaml"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["resources.monitor.image=trainer"], "resources.monitor.image: monitor runs in image monitor alone"),
        (["monitor.labels={uri: l.parquet}"], "monitor.labels.key: labels are joined with predictions by it"),
        (
            ["monitor.rules=[{metric: performance.recall_at_9, max_drop: 0.1}]", "monitor.labels={uri: l, key: id}"],
            "monitor.rules.0.metric: no metric 'recall_at_9' for multiclass tasks; there are roc_auc",
        ),
        (
            ["monitor.rules=[{metric: performance.latency_p99_ms, max: 1}]", "monitor.labels={uri: l, key: id}"],
            "monitor.rules.0.metric: no metric 'latency_p99_ms' for multiclass tasks",
        ),
        (
            ["monitor.rules=[{metric: performance.accuracy, max_drop: 0.1}]"],
            "monitor.rules.0.metric: performance.accuracy needs labels; say in monitor.labels where they come",
        ),
        (
            ["monitor.columns={sex: {psi: 0.4}}", "monitor.ignore=[sex, island]"],
            "monitor.columns.sex: it has thresholds, and monitor.ignore leaves it out",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, expected):
    with pytest.raises(SpecError) as caught:
        load_spec(PENGUINS, settings)
    assert expected in str(caught.value)


def test_what_fits_together_is_taken():
    settings = ["monitor.labels={uri: l.parquet, key: bird}", "monitor.rules=[{metric: performance.f1, max_drop: 0.1}]"]
    spec = load_spec(PENGUINS, settings)
    assert [rule.metric for rule in spec.monitor.rules] == ["performance.f1"]


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("inference.columns=[islnd]", "inference.columns"),
        ("inference.slices=[islnd]", "inference.slices"),
        ("monitor.columns={islnd: {psi: 0.4}}", "monitor.columns"),
        ("monitor.ignore=islnd", "monitor.ignore"),
    ],
)
def test_a_column_that_the_schema_lacks_is_refused(setting, where, monkeypatch):
    monkeypatch.setenv(PROJECT_VARIABLE, str(PENGUINS.parent))
    with pytest.raises(SpecError, match=rf"{where}: .* has no column 'islnd'; did you mean 'island'\?"):
        check_columns(load_spec(PENGUINS, [setting]), PENGUINS)
