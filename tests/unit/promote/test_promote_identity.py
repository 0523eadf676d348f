"""A CI job's identity, over a real HTTP server that speaks GitHub's protocol and signs with real keys."""

import time

import pytest
from promotion_oidc import BEARER, issuer, key

from shipway.errors import InputError, ShipwayError
from shipway.model.approval import Approver
from shipway.promote.identity import approver


@pytest.fixture
def github(monkeypatch):
    with issuer() as told:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", f"{told.url}/token?api-version=2.0")
        monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", BEARER)
        monkeypatch.setenv("SHIPWAY_OIDC_ISSUER", f"{told.url}/")
        yield told


def refused(github, kind=ShipwayError):
    with pytest.raises(kind) as failed:
        approver()
    text = f"{failed.value!r} {failed.value} {failed.value.__cause__!r}"
    assert BEARER not in text
    for token in github.tokens:
        assert not any(part and part in text for part in token.split("."))
    return str(failed.value)


def test_a_job_of_an_environment(github):
    expected = Approver(
        "ann-of-github", "github", "acme/flights:production", github.url, "acme/flights/actions/runs/42"
    )
    assert approver() == expected
    assert github.asked[0] == "/token?api-version=2.0&audience=shipway"
    github.claims = {"run_id": None}
    assert approver().run == ""


def test_keys_that_were_changed_are_found(github):
    github.published["key-2"] = github.signing = key()
    github.kid = "key-2"
    assert approver().who == "ann-of-github"


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"aud": "another-service"}, "Audience"),
        ({"iss": "https://evil.example"}, "issuer"),
        ({"exp": int(time.time()) - 3600}, "expired"),
        ({"exp": None}, "exp"),
        ({"iat": int(time.time()) + 3600, "nbf": int(time.time()) + 3600}, "not yet valid"),
        ({"actor": None}, "actor"),
        ({"repository": None}, "repository"),
    ],
)
def test_a_token_that_says_something_else(github, claims, why):
    github.claims = claims
    message = refused(github)
    assert "the identity that GitHub gave this job is not genuine" in message
    assert why in message


def test_a_token_that_somebody_else_signed(github):
    github.signing = key()
    assert "Signature verification failed" in refused(github)


def test_a_key_that_is_not_published(github):
    github.kid = "key-9"
    assert "Unable to find a signing key" in refused(github)


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
def test_a_weaker_algorithm(github, algorithm):
    github.algorithm = algorithm
    assert "not genuine" in refused(github)


def test_a_job_without_environment(github):
    github.claims = {"environment": None}
    assert "runs in no environment" in refused(github, InputError)


def test_a_job_that_may_ask_for_no_token(github, monkeypatch):
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_URL")
    assert "permissions: id-token: write" in refused(github, InputError)


@pytest.mark.parametrize(
    ("path", "answer", "why"),
    [
        ("/token", (403, b"no"), "GitHub's token service refuses: HTTP 403"),
        ("/token", (302, b""), "GitHub's token service refuses: HTTP 302"),
        ("/token", (200, b"<html>"), "its answer is no JSON object"),
        ("/token", (200, b'{"value": 7}'), "its answer has no token"),
        ("/token", (200, b'{"value": "abc"}'), "not genuine"),
        ("/.well-known/openid-configuration", (500, b""), "refuses: HTTP 500"),
        ("/.well-known/openid-configuration", (200, b"{}"), "jwks_uri: expected an https:// URL"),
        ("/.well-known/openid-configuration", (200, b'{"jwks_uri": "file:///etc/passwd"}'), "expected an https:// URL"),
        ("/.well-known/openid-configuration", (200, b'{"jwks_uri": "http://evil.example/"}'), "expected an https://"),
        ("/.well-known/jwks", (503, b""), "not genuine: Fail to fetch data"),
        ("/.well-known/jwks", (200, b'{"keys": []}'), "not genuine"),
        ("/.well-known/jwks", (200, b"<html>"), "not genuine"),
    ],
)
def test_a_service_that_answers_something_else(github, path, answer, why):
    github.answers[path] = answer
    assert why in refused(github)
    assert not any(asked.startswith("/elsewhere") for asked in github.asked)


def test_a_service_that_nobody_answers_at(github, monkeypatch):
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://127.0.0.1:9/token")
    assert "GitHub's token service cannot be reached" in refused(github)


def test_the_request_s_token_goes_over_no_plain_wire(github, monkeypatch):
    monkeypatch.setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "http://example.com/token")
    assert "expected an https:// URL" in refused(github, InputError)
