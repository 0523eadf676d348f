"""The trigger service as the manifests start it: its database, its routes, its callers."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from manifests_build import ROOT, Object, installation, named
from manifests_postgres import BIN, MISSING, postgres
from sqlalchemy import make_url

from shipway.triggers.auth import SECRETS_FOLDER
from shipway.triggers.database import DATABASE_VARIABLE
from shipway.triggers.hooks import hook_path
from shipway.triggers.routes import Routes, load_routes
from shipway.triggers.store import Store, StoreError

FLIGHTS = ROOT.parent / "pipelines" / "examples" / "flights" / "shipway.yaml"
ADMIN, PASSWORD, CHANGED = "for the tests alone", 'it\'s "a\\b" $1', "another one"


def pod(name: str = "production") -> Object:
    spec: Object = named(installation(name), "Deployment", "trigger")["spec"]["template"]["spec"]
    return spec


def config(name: str) -> dict[str, str]:
    data: dict[str, str] = named(installation("production"), "ConfigMap", name)["data"]
    return data


def mounts() -> dict[str, Any]:
    """Returns the volume that is mounted at each path of the service's container."""
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    return {mount["mountPath"]: volumes[mount["name"]] for mount in pod()["containers"][0]["volumeMounts"]}


# --- Its database -----------------------------------------------------------------------------------------------------


def make_database(folder: Path, port: int, password: str, admin: str = ADMIN) -> "subprocess.Popen[str]":
    """Runs the init container's command against a server on this machine."""
    assert BIN is not None, MISSING
    (init,) = pod()["initContainers"]
    assert init["command"] == ["psql"]
    (mount,) = init["volumeMounts"]
    scripts = next(volume["configMap"] for volume in pod()["volumes"] if volume["name"] == mount["name"])
    assert scripts["name"].startswith("trigger-database")
    for name, text in config("trigger-database").items():
        (folder / name).write_text(text)
    secrets = {"PGPASSWORD": admin, "TRIGGER_PASSWORD": password}
    variables = {entry["name"]: entry.get("value") or secrets[entry["name"]] for entry in init["env"]}
    assert variables["PGHOST"] == named(installation("production"), "Service", "postgres")["metadata"]["name"]
    arguments = [argument.replace(mount["mountPath"], str(folder)) for argument in init["args"]]
    return subprocess.Popen(
        [str(BIN / "psql"), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": str(folder), **variables, "PGHOST": "127.0.0.1", "PGPORT": str(port)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> str:
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return said


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    if BIN is None:
        pytest.skip(MISSING)
    with postgres("mlflow", ADMIN) as port:
        yield port


def store(port: int, database: str = "") -> Store:
    url = make_url(config("trigger-settings")[DATABASE_VARIABLE])
    assert url.password is None
    return Store(url.set(host="127.0.0.1", port=port, database=database or url.database).render_as_string())


def test_its_database_is_made_once_by_however_many(
    server: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two pods at once on a new database, and one more later, after the password was changed.
    said = [end(process) for process in [make_database(tmp_path, server, PASSWORD) for _ in range(2)]]
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    store(server).close()
    said.append(end(make_database(tmp_path, server, CHANGED)))
    assert said == [""] * 3
    with pytest.raises(StoreError, match="password authentication failed"):
        store(server)
    monkeypatch.setenv("PGPASSWORD", CHANGED)
    mine = store(server)
    mine.check()
    mine.close()
    # MLflow's is not open to it.
    with pytest.raises(StoreError, match="permission denied for database"):
        store(server, "mlflow")


def test_without_a_database_the_service_is_not_started(server: int, tmp_path: Path) -> None:
    process = make_database(tmp_path, server, PASSWORD, "not the administrator's")
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "password authentication failed" in said


def test_both_take_their_passwords_from_the_same_secrets() -> None:
    (init,), (service,) = pod()["initContainers"], pod()["containers"]
    taken = {
        (container["name"], entry["name"]): entry["valueFrom"]["secretKeyRef"]["name"]
        for container in (init, service)
        for entry in container["env"]
        if "valueFrom" in entry
    }
    assert taken["database", "PGPASSWORD"] == "shipway-postgres"
    assert taken["database", "TRIGGER_PASSWORD"] == taken["trigger", "PGPASSWORD"] == "shipway-trigger-postgres"
    # The service never sees the administrator's.
    assert "shipway-postgres" not in {name for (container, _), name in taken.items() if container == "trigger"}


# --- Its routes and secrets -------------------------------------------------------------------------------------------


def routes(folder: Path) -> Routes:
    """Reads the routes of the manifests, the project of an image being that of the flights."""
    for name, text in config("trigger-routes").items():
        (folder / name).write_text(text.replace("/opt/project/shipway.yaml", str(FLIGHTS)))
    return load_routes(folder / Path(pod()["containers"][0]["args"][0]).name)


def test_its_routes_are_good_and_lie_where_it_looks(tmp_path: Path) -> None:
    path = Path(pod()["containers"][0]["args"][0])
    assert mounts()[str(path.parent)]["configMap"]["name"].startswith("trigger-routes")
    assert path.name in config("trigger-routes")
    read = routes(tmp_path)
    name = yaml.safe_load(FLIGHTS.read_text())["name"]
    for route in read.routes:
        # An alert about another model must not start anything of this one.
        assert route.on.labels["model"] == [name], route.name
        assert read.specs[route.runnable].target == "kubeflow"


def test_its_secrets_lie_where_it_looks_by_the_names_of_the_routes(tmp_path: Path) -> None:
    secret = mounts()[SECRETS_FOLDER]["secret"]["secretName"]
    made = next(
        thing
        for thing in installation("production+external-secrets")
        if thing["kind"] == "ExternalSecret" and thing["spec"]["target"]["name"] == secret
    )
    keys = {entry["secretKey"] for entry in made["spec"]["data"]}
    read = routes(tmp_path)
    named_there = {auth.bearer or auth.hmac or auth.github for source in read.sources.values() if (auth := source.auth)}
    assert keys == named_there | {read.readers.bearer}
    # Nothing is open to whoever gets through to it.
    assert all(source.auth for source in read.sources.values())


def test_its_probes_and_its_image_ask_the_port_that_it_listens_on() -> None:
    (container,) = pod()["containers"]
    (port,) = container["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    dockerfile = (ROOT.parent / "containers" / "Dockerfile").read_text()
    target = dockerfile[dockerfile.index("AS trigger") :]
    assert f"EXPOSE {port['containerPort']}\n" in target
    assert f"http://127.0.0.1:{port['containerPort']}{container['readinessProbe']['httpGet']['path']}" in target


# --- Its callers ------------------------------------------------------------------------------------------------------


def test_alertmanager_calls_a_source_of_the_routes_with_its_token(tmp_path: Path) -> None:
    objects = installation("production+monitoring")
    receiver = named(objects, "AlertmanagerConfig", "shipway-trigger")["spec"]["receivers"][0]["webhookConfigs"][0]
    address, service = urlsplit(receiver["url"]), named(objects, "Service", "trigger")
    assert (address.hostname, address.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    read = routes(tmp_path)
    (name,) = [name for name in read.sources if address.path == hook_path(name)]
    source = read.sources[name]
    assert source.kind == "alertmanager"
    credentials = receiver["httpConfig"]["authorization"]["credentials"]
    assert source.auth is not None
    assert (credentials["name"], credentials["key"]) == ("shipway-trigger", source.auth.bearer)


def test_every_rule_is_sent_there_and_its_action_is_one_of_the_rules() -> None:
    objects = installation("production+monitoring")
    (matcher,) = named(objects, "AlertmanagerConfig", "shipway-trigger")["spec"]["route"]["matchers"]
    alerts = [
        rule
        for thing in objects
        if thing["kind"] == "PrometheusRule"
        for group in thing["spec"]["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]
    for rule in alerts:
        assert rule["labels"][matcher["name"]] == matcher["value"], rule["alert"]
        assert rule["labels"]["action"] in {"alert", "retrain", "rollback"}, rule["alert"]
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule["alert"]


def test_only_hooks_are_open_to_the_outside() -> None:
    ingress = named(installation("production"), "Ingress", "trigger")["spec"]
    (rule,) = ingress["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/hooks/", "Prefix")
    assert hook_path("github").startswith(path["path"])


def test_prometheus_finds_what_it_scrapes() -> None:
    objects = installation("production+monitoring")
    monitor = named(objects, "ServiceMonitor", "shipway-trigger")["spec"]
    service = named(objects, "Service", "trigger")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert [one["port"] for one in monitor["endpoints"]] == [port["name"] for port in service["spec"]["ports"]]
    servers = named(objects, "PodMonitor", "shipway-servers")["spec"]["podMetricsEndpoints"]
    runtime = named(objects, "ServingRuntime", "shipway-server")["spec"]["containers"][0]
    assert [one["targetPort"] for one in servers] == [port["containerPort"] for port in runtime["ports"]]


# --- The service itself -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_runs_as_the_manifest_starts_it(server: int, tmp_path: Path) -> None:
    """On the database that its init container made, with its routes, secrets and probes; it stores and answers."""
    end(make_database(tmp_path, server, PASSWORD))
    routes(tmp_path)
    (container,) = pod()["containers"]
    token = "0123456789abcdef-" + "x" * 8
    (tmp_path / "secrets").mkdir()
    for name in ("SHIPWAY_EVENTS_TOKEN", "ALERTMANAGER_TOKEN", "SHIPWAY_READ_TOKEN"):
        (tmp_path / "secrets" / name).write_text(f"{name}-{token}")
    database = config("trigger-settings")[DATABASE_VARIABLE].replace("@postgres:5432", f"@127.0.0.1:{server}")
    environment = {
        **os.environ,
        **config("trigger-settings"),
        **{entry["name"]: entry["value"] for entry in container["env"] if "value" in entry},
        DATABASE_VARIABLE: database,
        "PGPASSWORD": PASSWORD,
        "SHIPWAY_SECRETS": str(tmp_path / "secrets"),
        "SHIPWAY_STATE": str(tmp_path / "state"),
    }
    changed = {"--host": "127.0.0.1", "--port": "0"}
    arguments = [
        f"{flag}={changed[flag]}" if (flag := argument.partition("=")[0]) in changed else argument
        for argument in container["args"]
    ]
    arguments[0] = str(tmp_path / Path(arguments[0]).name)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "shipway.cli", *container["command"][1:], *arguments],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert "trigger service at http://" in said, (tmp_path / "log").read_text()
        # Neither the database's password nor a token is told.
        assert PASSWORD not in said
        url = said.split()[3].rstrip(",")
        with httpx.Client(base_url=url) as client:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                path = container[probe]["httpGet"]["path"]
                assert client.get(path).status_code == 200, (probe, client.get(path).text)
            alert = {"labels": {"alertname": "ShipwayErrorRate", "action": "rollback", "model": "another"}}
            body = {"alerts": [{**alert, "status": "firing", "startsAt": "2026-01-01T00:00:00Z"}]}
            assert client.post("/hooks/alertmanager", json=body).status_code == 401
            bearer = {"authorization": f"Bearer ALERTMANAGER_TOKEN-{token}"}
            assert client.post("/hooks/alertmanager", json=body, headers=bearer).status_code == 202
            assert client.get("/alerts").status_code == 401
            read = client.get("/alerts", headers={"authorization": f"Bearer SHIPWAY_READ_TOKEN-{token}"}).json()
            assert [one["labels"]["model"] for one in read["alerts"]] == ["another"]
            told = client.get("/metrics").text
            assert 'shipway_trigger_alerts_total{outcome="stored",source="alertmanager"} 1.0' in told
    finally:
        process.terminate()
        process.wait(30)
    assert process.returncode in (0, -signal.SIGTERM), (tmp_path / "log").read_text()
