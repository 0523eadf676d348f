"""Schemathesis makes requests of the service's own OpenAPI document, right and wrong ones, and finds no fault."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from trigger_service import BEARER, READER, serving

ROUTES = """
sources:
  alertmanager: {kind: alertmanager, auth: {bearer: EVENTS}}
  events: {kind: cloudevents, auth: {bearer: EVENTS}}
  github: {kind: github, auth: {bearer: EVENTS}}
  any: {kind: json, auth: {bearer: EVENTS}, labels: {name: name}}
readers: {bearer: READER}
limits: {rate: 100000/s}
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("openapi"), ROUTES) as running:
        yield running


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json", config=SchemathesisConfig(seed=5))


PATHS = [
    *("/hooks/alertmanager", "/hooks/events", "/hooks/github", "/hooks/any"),
    *("/alerts", "/alerts/{alert_id}", "/runs", "/", "/view/{alert_id}", "/healthz", "/readyz", "/metrics"),
]


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_it_fail(service, document, path, mode):
    operation = document[path]["POST" if path.startswith("/hooks/") else "GET"]
    token = BEARER["authorization"] if path.startswith("/hooks/") else f"Bearer {READER}"
    # What is asked of a body beyond its schema (no NUL, no number beyond 64 bits, one value for a label) is a 400.
    beyond = schemathesis.checks.CHECKS.get_one("positive_data_acceptance")
    # Every request here has the right token, whatever was generated; others are in test_triggers_app.
    ignored = schemathesis.checks.CHECKS.get_one("ignored_auth")
    seen = []

    @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: schemathesis.Case) -> None:
        answer = case.call(base_url=service.url, headers={"authorization": token})
        seen.append(answer.status_code)
        case.validate_response(answer, excluded_checks=[beyond, ignored])

    try:
        ask()
    except Unsatisfiable:
        # Nothing can be wrong with a request that has no parameters.
        assert (mode, operation.method) == (GenerationMode.NEGATIVE, "get")
    assert all(status < 500 for status in seen)
    if path.startswith("/hooks/") and mode is GenerationMode.POSITIVE:
        assert 202 in seen


def test_the_document_has_every_hook_and_what_it_asks_for(service):
    document = httpx.get(f"{service.url}/openapi.json").json()
    hooks = {path for path in document["paths"] if path.startswith("/hooks/")}
    assert hooks == {"/hooks/alertmanager", "/hooks/events", "/hooks/github", "/hooks/any"}
    assert document["paths"]["/hooks/any"]["post"]["security"] == [{"bearer": []}]
    assert document["paths"]["/alerts"]["get"]["security"] == [{"bearer": []}]
    assert "security" not in document["paths"]["/healthz"]["get"]
