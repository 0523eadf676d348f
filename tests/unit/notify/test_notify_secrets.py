"""Secrets that a variable names rather than holds: Google's Secret Manager, asked as it wants to be."""

import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from notify_stand_ins import TOKEN, Reply

from shipway.notify import delivery
from shipway.notify.alerts import Alert
from shipway.notify.secrets import ENDPOINT_VARIABLE, REFERENCE
from shipway.notify.send import tell
from shipway.spec import dump_section
from shipway.spec.watch import NotifySection

SECRET = "projects/acme-1/secrets/events-token"


@pytest.fixture(scope="module")
def account_key():
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode()


@pytest.fixture(autouse=True)
def service_account(google, account_key, tmp_path, monkeypatch):
    """Credentials as a service account's key file gives them."""
    account = {
        "type": "service_account",
        "client_email": "runs@acme-1.iam.gserviceaccount.com",
        "private_key": account_key,
        "token_uri": f"{google.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.setenv(ENDPOINT_VARIABLE, google.url)
    monkeypatch.setattr(delivery, "_PAUSES", (0.01,))


def told(hook):
    section = NotifySection.model_validate({"events": {"url": hook.url}})
    tell(Alert("flights", "drift", "warning", "moved", 1.5e9, "k"), dump_section(section))


@pytest.mark.parametrize(("given", "version"), [("", "/versions/latest"), ("/versions/7", "/versions/7")])
def test_a_variable_may_name_a_secret(given, version, google, hook, monkeypatch):
    google.secrets[SECRET + version] = f"{TOKEN}\n"
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", f"{REFERENCE}{SECRET}{given}")
    told(hook)
    assert hook.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


def test_the_urls_may_be_one_too(google, hook, monkeypatch):
    google.secrets[f"{SECRET}/versions/latest"] = hook.url.replace("http://", "json://")
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", "t")
    monkeypatch.setenv("SHIPWAY_NOTIFY_URLS", REFERENCE + SECRET)
    told(hook)
    assert sorted(request.headers["content-type"] for request in hook.requests) == [
        "application/cloudevents+json",
        "application/json",
    ]


@pytest.mark.parametrize(
    ("value", "fault", "words"),
    [
        ("projects/acme-1", None, "names no secret; expected secretmanager:projects/PROJECT/secrets/NAME"),
        ("projects/a/secrets/../../x", None, "names no secret"),
        (SECRET, None, "could not be read: answered 403"),
        (
            SECRET,
            [Reply(200, {"access_token": "ya29.token"}), Reply(200, {"payload": {}})],
            "answered what is no version",
        ),
        (SECRET, [Reply(400, {"error": "invalid_grant"})], "no credentials of a service account"),
    ],
)
def test_a_secret_that_cannot_be_read_is_said(value, fault, words, google, hook, monkeypatch, capsys):
    google.faults = list(fault or [])
    monkeypatch.setenv("SHIPWAY_EVENTS_TOKEN", REFERENCE + value)
    told(hook)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("notify:")]
    assert words in line
    assert hook.requests == []
