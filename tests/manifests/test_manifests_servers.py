"""The processes that the manifests start take the arguments and variables that they are given there."""

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import httpx
import pytest
from manifests_build import ROOT, Object, example, installation, named
from moto.server import ThreadedMotoServer
from sqlalchemy import make_url

from shipway.lineage.tracking import URI_VARIABLE
from shipway.platforms import kubernetes
from shipway.serving.app import create_app
from shipway.serving.router import Router
from shipway.serving.settings import read_settings
from shipway.serving.telemetry import Telemetry

OVERLAYS = ("dev", "production")
DOCKERFILE = ROOT.parent / "containers" / "Dockerfile"


def container(objects: list[Object], kind: str, name: str) -> Object:
    spec = named(objects, kind, name)["spec"]
    return (spec if kind == "ServingRuntime" else spec["template"]["spec"])["containers"][0]


def settings(objects: list[Object], name: str = "mlflow-settings") -> dict[str, str]:
    data: dict[str, str] = named(objects, "ConfigMap", name)["data"]
    return data


# --- The model server -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_model_server_takes_its_arguments(overlay: str) -> None:
    server = container(installation(overlay), "ServingRuntime", "shipway-server")
    (service,) = example("inference-service")
    assert server["command"] == ["python", "-m", "shipway.serving"]
    # As KServe does: the name for its placeholder, and the arguments of the InferenceService behind.
    given = [argument.replace("{{.Name}}", service["metadata"]["name"]) for argument in server["args"]]
    assert not any("{{" in argument for argument in given)
    model = service["spec"]["predictor"]["model"]
    read = read_settings([*given, *model["args"]], {entry["name"]: entry["value"] for entry in model["env"]})
    assert (read.package, read.name, read.host) == ("/mnt/models", "flights", "0.0.0.0")  # noqa: S104 - of a pod
    assert [port["containerPort"] for port in server["ports"]] == [read.port]
    assert read.version == "12"
    assert read.digest is not None
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", read.digest)
    assert read.revision == service["spec"]["predictor"]["name"]
    assert read.blessing is not None
    assert (read.blessing.decision, read.blessing.model_digest) == ("blessed", read.digest)


def test_the_model_server_is_probed_where_it_answers() -> None:
    server = container(installation("production"), "ServingRuntime", "shipway-server")

    async def ask_all() -> dict[str, int]:
        transport = httpx.ASGITransport(create_app(Router("flights", Telemetry("flights"))))
        async with httpx.AsyncClient(transport=transport, base_url="http://server:8080") as client:
            kinds = [kind for kind in server if kind.endswith("Probe")]
            return {kind: (await client.get(server[kind]["httpGet"]["path"])).status_code for kind in kinds}

    answers = asyncio.run(ask_all())
    # Without a model it lives, and is not ready.
    assert answers == {"startupProbe": 200, "livenessProbe": 200, "readinessProbe": 503}


def test_images_run_as_the_user_of_the_manifests() -> None:
    user = re.search(r"^USER (\d+):(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert user is not None
    expected = (int(user[1]), int(user[2]))
    objects = installation("production+checkpoints")
    for thing in objects:
        if thing["kind"] in {"Deployment", "Job"}:
            context = thing["spec"]["template"]["spec"]["securityContext"]
            assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (*expected, expected[1])
    context = container(objects, "ServingRuntime", "shipway-server")["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == expected


# --- MLflow -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mlflow_takes_its_arguments(overlay: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow.cli import server

    objects = installation(overlay)
    mlflow = container(objects, "Deployment", "mlflow")
    assert mlflow["command"] == ["python", "-m", "mlflow", "server"]
    for name, value in settings(objects).items():
        monkeypatch.setenv(name, value)
    # Reads the arguments and starts nothing.
    read = server.make_context("server", list(mlflow["args"])).params
    assert (read["host"], read["port"], read["workers"]) == ("0.0.0.0", 5000, "2")  # noqa: S104 - of a pod
    assert read["serve_artifacts"] is True
    assert read["backend_store_uri"] == "postgresql+psycopg2://mlflow@postgres:5432/mlflow"
    assert read["artifacts_destination"] == settings(objects)["MLFLOW_ARTIFACTS_DESTINATION"]
    assert "mlflow:5000" in read["allowed_hosts"]
    assert "*" not in read["allowed_hosts"].split(",")


def test_mlflow_refuses_an_argument_that_it_does_not_know() -> None:
    import click
    from mlflow.cli import server

    with pytest.raises(click.UsageError, match="--serve-everything"):
        server.make_context("server", ["--serve-everything"])


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mlflow_and_its_database_agree(overlay: str) -> None:
    objects = installation(overlay)
    uri = make_url(settings(objects)["MLFLOW_BACKEND_STORE_URI"])
    service = named(objects, "Service", "postgres")
    database = {v["name"]: v.get("value") for v in container(objects, "StatefulSet", "postgres")["env"]}
    assert (uri.username, uri.database) == (database["POSTGRES_USER"], database["POSTGRES_DB"])
    assert (uri.host, uri.port) == (service["metadata"]["name"], service["spec"]["ports"][0]["port"])
    # Both take the password from one key of one secret; libpq reads PGPASSWORD.
    assert uri.password is None
    variables = {v["name"]: v for v in container(objects, "Deployment", "mlflow")["env"]}
    reference = variables["PGPASSWORD"]["valueFrom"]["secretKeyRef"]
    pod = named(objects, "StatefulSet", "postgres")["spec"]["template"]["spec"]
    (volume,) = [v["secret"] for v in pod["volumes"] if "secret" in v]
    (mount,) = [m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "password"]
    assert (reference["name"], reference["key"]) == (volume["secretName"], volume["items"][0]["key"])
    assert database["POSTGRES_PASSWORD_FILE"] == f"{mount['mountPath']}/{volume['items'][0]['path']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_steps_are_told_where_mlflow_is(overlay: str) -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    objects = installation(overlay)
    uri = settings(objects, "shipway-settings")[URI_VARIABLE]
    service, space = named(objects, "Service", "mlflow"), named(objects, "Namespace", "shipway")["metadata"]["name"]
    name, port = service["metadata"]["name"], service["spec"]["ports"][0]["port"]
    assert uri == f"http://{name}:{port}"
    allowed = settings(objects)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    for host in (name, f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local"):
        assert is_allowed_host_header(allowed, f"{host}:{port}"), host
    for host in ("evil.example.com", "mlflow.example.com:5000", "mlflow", "10.1.2.3:5000"):
        assert not is_allowed_host_header(allowed, host), host


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_steps_get_every_setting_there_is(overlay: str) -> None:
    # What a step takes from the config map is a fixed list; another key would be there for nothing.
    taken = {*kubernetes._REQUIRED_KEYS, *kubernetes._OPTIONAL_KEYS}
    given = set(settings(installation(overlay), "shipway-settings"))
    assert set(kubernetes._REQUIRED_KEYS) <= given <= taken


@contextlib.contextmanager
def running_mlflow(folder: Path, store: str) -> Iterator[str]:
    """Starts MLflow as the manifest does, but for its database, its port and the address of its object store."""
    objects = installation("dev")
    mlflow = container(objects, "Deployment", "mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    changed = {"--host": "127.0.0.1", "--port": str(port)}
    arguments = [
        f"{flag}={changed[flag]}" if (flag := argument.partition("=")[0]) in changed else argument
        for argument in mlflow["args"]
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        **settings(objects),
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_S3_ENDPOINT_URL": store,
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *mlflow["command"][1:], *arguments],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        health = mlflow["readinessProbe"]["httpGet"]["path"]
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            # The kubelet asks by the pod's address.
            with contextlib.suppress(OSError):
                if ask(f"http://127.0.0.1:{port}{health}", host="10.1.2.3:5000")[0] == 200:
                    break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(url: str, *, host: str, body: bytes | None = None, method: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, body, {"Host": host, "Content-Type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.slow
def test_mlflow_runs_as_the_manifest_starts_it(tmp_path: Path) -> None:
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    try:
        address = "http://{}:{}".format(*store.get_host_and_port())
        s3 = boto3.client(
            "s3",
            endpoint_url=address,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        s3.create_bucket(Bucket="mlpipeline")
        with running_mlflow(tmp_path, address) as url:
            api = f"{url}/api/2.0/mlflow/experiments"
            created = ask(f"{api}/create", host="mlflow:5000", body=b'{"name": "flights"}')
            assert created[0] == 200, created
            number = json.loads(created[1])["experiment_id"]
            far = "mlflow.shipway-dev.svc.cluster.local:5000"
            read = json.loads(ask(f"{api}/get?experiment_id={number}", host=far)[1])["experiment"]
            # Artifacts go through the server: a client without any key to the store can put one there.
            assert read["artifact_location"] == f"mlflow-artifacts:/{number}"
            artifact = f"{url}/api/2.0/mlflow-artifacts/artifacts/{number}/run/model.onnx"
            assert ask(artifact, host="mlflow:5000", body=b"onnx", method="PUT")[0] == 200
            assert ask(artifact, host="mlflow:5000") == (200, b"onnx")
            kept = [entry["Key"] for entry in s3.list_objects_v2(Bucket="mlpipeline")["Contents"]]
            assert kept == [f"mlflow/{number}/run/model.onnx"]
            status, body = ask(f"{api}/get?experiment_id={number}", host="evil.example.com")
            assert (status, b"Invalid Host" in body) == (403, True)
    finally:
        store.stop()


# --- The disk's new owner ---------------------------------------------------------------------------------------------


def test_the_disks_job_tells_whether_it_may_write(tmp_path: Path) -> None:
    job = container(installation("production+checkpoints"), "Job", "shipway-work-owner")
    *start, program = job["command"]
    assert start == ["python", "-c"]
    assert job["volumeMounts"][0]["mountPath"] == kubernetes.STATE_PATH
    assert kubernetes.STATE_PATH in program

    def run(folder: Path) -> int:
        moved = program.replace(kubernetes.STATE_PATH, str(folder))
        return subprocess.run([sys.executable, "-c", moved], capture_output=True).returncode

    assert run(tmp_path) == 0
    assert list(tmp_path.iterdir()) == []
    assert run(tmp_path / "missing") != 0
