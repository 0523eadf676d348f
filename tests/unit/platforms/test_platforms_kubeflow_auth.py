"""What is shown to a KFP server, and where it comes from; no secret is ever shown to a person."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubeflow_stand_in import PASSWORD, SESSION, TOKEN, USER, Fault, StandIn, serving

from shipway.errors import InputError, ShipwayError
from shipway.platforms import kubeflow_calls
from shipway.platforms.kubeflow_auth import connect, find_access
from shipway.spec import KubeflowSection

VARIABLES = (
    *(
        "KFP_HOST",
        "KFP_TOKEN_FILE",
        "KFP_COOKIE_FILE",
        "KFP_USERNAME",
        "KFP_PASSWORD",
        "KFP_KUBE_CONTEXT",
        "KFP_TIMEOUT",
    ),
    *("KFP_CA_CERT", "KFP_UI_HOST", "KF_PIPELINES_ENDPOINT", "KF_PIPELINES_SA_TOKEN_PATH", "KUBERNETES_SERVICE_HOST"),
    "KFP_NAMESPACE",
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(kubeflow_calls, "FIRST_PAUSE_SECONDS", 0.01)
    with serving() as stand_in:
        monkeypatch.setenv("KFP_HOST", stand_in.url)
        yield stand_in


def test_a_token_file_is_read_anew_for_every_call(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = TOKEN
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(file))
    kfp = connect(KubeflowSection())
    server.token = "the-next-token"
    with pytest.raises(ShipwayError, match="401"):
        kfp.caller.ask("listing", kfp.client.list_experiments)
    file.write_text("the-next-token")
    kfp.caller.ask("listing", kfp.client.list_experiments)
    file.unlink()
    with pytest.raises(ShipwayError, match=f"listing: {file}: No such file"):
        kfp.caller.ask("listing", kfp.client.list_experiments)


def test_a_wrong_token_is_one_line_with_its_place(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.token = TOKEN
    (tmp_path / "token").write_text("not-the-right-token")
    monkeypatch.setenv("KFP_TOKEN_FILE", str(tmp_path / "token"))
    with pytest.raises(ShipwayError) as raised:
        connect(KubeflowSection())
    assert f"asking for its health: 401 Unauthorized (Unauthorized: ***); sent was the token of {tmp_path}" in str(
        raised.value
    )
    assert server.seen("GET /healthz") == 1


def test_a_cookie_file_is_read_anew_for_every_call(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server.dex = True
    (tmp_path / "cookies").write_text(SESSION)
    monkeypatch.setenv("KFP_COOKIE_FILE", str(tmp_path / "cookies"))
    kfp = connect(KubeflowSection())
    server.session = "authservice_session=the-next-session"
    with pytest.raises(ShipwayError) as raised:
        kfp.caller.ask("listing", kfp.client.list_experiments)
    assert "401" in str(raised.value)
    assert "session-of-the-stand-in" not in str(raised.value)
    (tmp_path / "cookies").write_text(server.session)
    kfp.caller.ask("listing", kfp.client.list_experiments)


def test_name_and_password_log_in_at_dex_and_again_when_the_session_ends(
    server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.dex = True
    monkeypatch.setenv("KFP_USERNAME", USER)
    monkeypatch.setenv("KFP_PASSWORD", PASSWORD)
    kfp = connect(KubeflowSection())
    kfp.caller.ask("listing", kfp.client.list_experiments)
    assert server.logins == 1
    server.session = "authservice_session=the-next-session"
    kfp.caller.ask("listing", kfp.client.list_experiments)
    assert server.logins == 2
    server.faults = [Fault("GET /experiments", "redirect"), Fault("GET /experiments", "login")]
    with pytest.raises(ShipwayError, match=r"login page; log in: the login of KFP_USERNAME did not do"):
        kfp.caller.ask("listing", kfp.client.list_experiments)


def test_a_wrong_password_is_one_line(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    server.dex = True
    monkeypatch.setenv("KFP_USERNAME", USER)
    monkeypatch.setenv("KFP_PASSWORD", "a wrong password")
    with pytest.raises(ShipwayError, match=r"login: Dex refused the name or password; check KFP_USERNAME") as raised:
        connect(KubeflowSection())
    assert "a wrong password" not in str(raised.value)


def test_dex_out_of_reach_is_one_line(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KFP_HOST", "http://127.0.0.1:9")
    monkeypatch.setenv("KFP_USERNAME", USER)
    monkeypatch.setenv("KFP_PASSWORD", PASSWORD)
    with pytest.raises(ShipwayError, match=r"http://127\.0\.0\.1:9: login: no answer \(ConnectionRefusedError\)"):
        connect(KubeflowSection())
    assert server.logins == 0


def test_a_projected_token_is_taken_in_a_pod(server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server.token = TOKEN
    (tmp_path / "projected").write_text(TOKEN)
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "projected"))
    assert connect(KubeflowSection()).namespace is None
    assert find_access(KubeflowSection()).credentials == f"the pod's token {tmp_path / 'projected'}"


def test_a_kube_context_goes_through_the_kube_api(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KFP_HOST")
    server.token = TOKEN
    names = ("default", "lab")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "default",
        "clusters": [
            {"name": "lab", "cluster": {"server": server.url}},
            {"name": "default", "cluster": {"server": "http://127.0.0.1:9"}},
        ],
        "users": [{"name": "ann", "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": "ann"}} for name in names],
    }
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube" / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(
        "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / ".kube" / "config")
    )
    monkeypatch.setenv("KFP_KUBE_CONTEXT", "lab")
    kfp = connect(KubeflowSection())
    kfp.caller.ask("listing", kfp.client.list_experiments)
    assert kfp.caller.host == f"{server.url}/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
    monkeypatch.setenv("KFP_KUBE_CONTEXT", "labb")
    with pytest.raises(InputError, match="there is no context 'labb'; there are default, lab"):
        connect(KubeflowSection())


def test_nothing_found_says_what_there_could_be(
    server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("KFP_HOST")
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"no Kubeflow is known: expected kubeflow\.host in the spec or KFP_HOST"):
        connect(KubeflowSection())
    assert server.calls == []


def test_the_order_is_the_one_in_the_docs(tmp_path: Path) -> None:
    for name in ("token", "cookies", "projected"):
        (tmp_path / name).write_text("a-secret-of-ann")
    environment = {
        "KFP_TOKEN_FILE": str(tmp_path / "token"),
        "KFP_COOKIE_FILE": str(tmp_path / "cookies"),
        "KFP_USERNAME": USER,
        "KFP_PASSWORD": PASSWORD,
        "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "projected"),
        "KFP_HOST": "https://from-environment",
        "KF_PIPELINES_ENDPOINT": "https://from-kfp",
    }
    found = []
    for name in ("KFP_TOKEN_FILE", "KFP_COOKIE_FILE", "KFP_USERNAME", "KF_PIPELINES_SA_TOKEN_PATH"):
        access = find_access(KubeflowSection(), environment)
        assert access.host == "https://from-environment"
        assert "a-secret-of-ann" not in repr(access)
        assert PASSWORD not in repr(access)
        found.append(access.credentials)
        del environment[name]
    assert [text.removesuffix(f"{tmp_path}/").split(" of ")[0] for text in found[:2]] == ["the token", "the cookies"]
    assert found[2:] == ["the login of KFP_USERNAME", f"the pod's token {tmp_path / 'projected'}"]
    assert find_access(KubeflowSection(), environment).credentials == "no credentials"
    assert find_access(KubeflowSection(host="https://from-spec"), environment).host == "https://from-spec"
    del environment["KFP_HOST"]
    assert find_access(KubeflowSection(), environment).host == "https://from-kfp"


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("KFP_HOST", "kubeflow.example.com", "expected a URL as https://"),
        ("KFP_TOKEN_FILE", "/no/such/file", "KFP_TOKEN_FILE: there is no file /no/such/file"),
        ("KFP_COOKIE_FILE", "/no/such/file", "KFP_COOKIE_FILE: there is no file"),
        ("KFP_CA_CERT", "/no/such/file", "KFP_CA_CERT: there is no file"),
        ("KFP_USERNAME", "ann", "KFP_PASSWORD is not; expected both"),
        ("KFP_TIMEOUT", "soon", "KFP_TIMEOUT: expected seconds, above 0 and at most 3600, found 'soon'"),
        ("KFP_TIMEOUT", "0", "found '0'"),
    ],
)
def test_a_wrong_setting_is_refused(setting: str, value: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        find_access(KubeflowSection(), {"KFP_HOST": "http://127.0.0.1:9", setting: value})


@pytest.mark.parametrize("text", ["", "\n", "two\nlines", "tökén"])
def test_a_file_that_holds_no_token_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(InputError, match="KFP_TOKEN_FILE: expected one line, a token") as raised:
        find_access(KubeflowSection(), {"KFP_HOST": "http://x", "KFP_TOKEN_FILE": str(tmp_path / "token")})
    assert "two" not in str(raised.value)


def test_kfps_own_context_file_is_not_written(server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kfp.Client._LOCAL_KFP_CONTEXT", str(tmp_path / "kfp" / "context.json"))
    server.multi_user = True
    assert connect(KubeflowSection(namespace="team-a")).namespace == "team-a"
    assert server.calls == ["GET /healthz"]
    assert list(tmp_path.iterdir()) == []


def test_a_retry_after_may_be_a_date(server: StandIn) -> None:
    later = dt.datetime.now(dt.UTC) + dt.timedelta(hours=2)
    server.faults = [
        Fault("GET /healthz", 429, headers={"Retry-After": later.strftime("%a, %d %b %Y %H:%M:%S GMT")}),
    ]
    with pytest.raises(ShipwayError, match=r"it asked to wait 7\d\d\d"):
        connect(KubeflowSection())
