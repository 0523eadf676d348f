"""Who is let in, and who is not."""

import base64
import hashlib
import hmac
import time

import pytest
from trigger_service import GITHUB, PARTNER, READER, TOKEN, github_headers, signed

from shipway.errors import InputError
from shipway.serving.limits import Refusal
from shipway.triggers.auth import Bearer, GitHubSignature, Open, SignedBody, is_loopback, read_secret

BODY = b'{"a": 1}'
BEARER = Bearer((TOKEN.encode(), b"the-one-before-it"))


def refusal(check, *arguments) -> Refusal:
    with pytest.raises(Refusal) as caught:
        check(*arguments)
    assert not any(secret in str(caught.value) for secret in (TOKEN, GITHUB, PARTNER, READER))
    return caught.value


@pytest.mark.parametrize(
    "given",
    [
        f"Bearer {TOKEN}",
        f"bearer  {TOKEN} ",
        "Bearer the-one-before-it",
        "Basic " + base64.b64encode(f"anybody:{TOKEN}".encode()).decode(),
    ],
)
def test_a_token_lets_in(given):
    BEARER.check_headers({"authorization": given})
    BEARER.check_body({}, BODY)


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        TOKEN,
        "Bearer",
        "Bearer ",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        "Bearer the-one-before-it,token-of-the-events",
        "Bearer t\xf6ken",
        "Basic !!!",
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
        "Basic " + base64.b64encode(f"{TOKEN}:wrong".encode()).decode(),
        f"Digest {TOKEN}",
    ],
)
def test_anything_else_does_not(given):
    assert refusal(BEARER.check_headers, {} if given is None else {"authorization": given}).status == 401


def test_githubs_signature_covers_the_body():
    auth = GitHubSignature((GITHUB.encode(),))
    headers = github_headers(BODY, "push")
    auth.check_headers(headers)
    auth.check_body(headers, BODY)
    assert refusal(auth.check_body, headers, BODY + b" ").status == 401
    assert refusal(auth.check_body, github_headers(BODY, "push", key="another-secret-16"), BODY).status == 401


def test_githubs_own_example():
    # https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries
    auth = GitHubSignature((b"It's a Secret to Everybody",))
    digest = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
    auth.check_body({"x-hub-signature-256": digest}, b"Hello, World!")


@pytest.mark.parametrize("given", ["", "sha256=", "sha256=00", "sha1=" + "0" * 40, "0" * 64, "sha256=" + "g" * 64])
def test_what_is_no_signature_is_refused_before_the_body_is_read(given):
    auth = GitHubSignature((GITHUB.encode(),))
    assert "64 hexadecimal digits" in refusal(auth.check_headers, {"x-hub-signature-256": given}).reason


def test_our_signature_covers_body_and_time():
    auth = SignedBody((PARTNER.encode(),), 300)
    headers = signed(BODY)
    auth.check_headers(headers)
    auth.check_body(headers, BODY)
    later = {**headers, "x-shipway-timestamp": str(int(headers["x-shipway-timestamp"]) + 1)}
    assert refusal(auth.check_body, later, BODY).status == 401
    assert refusal(auth.check_body, headers, b"{}").status == 401
    plain = hmac.new(PARTNER.encode(), BODY, hashlib.sha256).hexdigest()
    assert refusal(auth.check_body, {**headers, "x-shipway-signature": f"sha256={plain}"}, BODY).status == 401


@pytest.mark.parametrize(("off", "said"), [(-1000, "s old"), (1000, "s ahead of this clock")])
def test_a_time_that_is_not_now_is_refused(off, said):
    auth = SignedBody((PARTNER.encode(),), 300)
    found = refusal(auth.check_headers, signed(BODY, stamp=time.time() + off))
    assert (found.status, said in found.reason, "at most 300 s" in found.reason) == (401, True, True)


@pytest.mark.parametrize("stamp", ["", "now", "-5", "1e9", "9" * 5000, "\u0662", "1 "])
def test_what_is_no_time_is_refused(stamp):
    headers = {**signed(BODY), "x-shipway-timestamp": stamp}
    assert refusal(SignedBody((PARTNER.encode(),), 300).check_headers, headers).status == 401


def test_a_message_is_taken_once():
    auth = SignedBody((PARTNER.encode(),), 300)
    headers = signed(BODY)
    auth.claim(headers)
    assert refusal(auth.claim, headers).status == 409
    # The same signature, written otherwise.
    upper = {**headers, "x-shipway-signature": "sha256=" + headers["x-shipway-signature"][7:].upper()}
    assert refusal(auth.claim, upper).status == 409
    auth.claim(signed(b"another"))
    auth.release(headers)
    auth.claim(headers)


def test_what_it_remembers_is_bounded():
    auth = SignedBody((PARTNER.encode(),), 300)
    for number in range(60_000):
        auth.claim({"x-shipway-signature": f"sha256={number:064x}"})
    assert len(auth._seen) <= 50_000


@pytest.mark.parametrize("host", ["localhost", "localhost:8090", "127.0.0.1:8090", "[::1]:8090", ""])
def test_without_authentication_this_machine_is_let_in(host):
    Open().check_headers({"host": host} if host else {})


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8090", "localhost.evil.example", "10.0.0.1"])
def test_without_authentication_a_page_that_names_another_host_is_not(host):
    assert refusal(Open().check_headers, {"host": host}).status == 403


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("localhost", True), ("LOCALHOST", True)]
    + [(host, False) for host in ("0", "::", "10.0.0.1", "example.com", "", "localhost.example.com")],
)
def test_loopback_is_known(host, expected):
    assert is_loopback(host) is expected


def test_a_secret_is_a_variable_or_a_file(tmp_path):
    (tmp_path / "A_SECRET").write_text("first-of-the-file\n\n second-of-the-file \n")
    environment = {"SHIPWAY_SECRETS": str(tmp_path), "OTHER": "from-the-environment"}
    assert read_secret("A_SECRET", environment) == (b"first-of-the-file", b"second-of-the-file")
    assert read_secret("OTHER", environment) == (b"from-the-environment",)
    assert read_secret("A_SECRET", {**environment, "A_SECRET": "the-variable-wins"}) == (b"the-variable-wins",)


def test_a_secret_that_is_missing_or_short_is_refused_without_being_told(tmp_path):
    environment = {"SHIPWAY_SECRETS": str(tmp_path)}
    with pytest.raises(InputError, match=f"secret A: set the variable A, or write the file {tmp_path}/A"):
        read_secret("A", environment)
    for content in ("hunter2", "long-enough-for-all\nhunter2", "   \n"):
        (tmp_path / "A").write_text(content)
        with pytest.raises(InputError, match="at least 16 characters a line") as caught:
            read_secret("A", environment)
        assert "hunter2" not in str(caught.value)
    (tmp_path / "A").write_bytes(b"\xff\xfe" * 20)
    with pytest.raises(InputError, match="cannot be read"):
        read_secret("A", environment)
