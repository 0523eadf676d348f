"""Runs a pipeline's steps in containers on this machine, each with no more than it needs.

What kfp's own DockerRunner (2.17) lacks is done here: it may report success for a container that failed fast
(kubeflow/pipelines#13332), as it asks for the exit code of a container that removes itself; and every step gets the
same mounts and the same network.

A container's root file system is read-only. It sees the project and other steps' artifacts read-only, and may write to
its own outputs and to /tmp. Only a step that keeps something (checkpoints, registry, endpoint) gets the state folder,
and only a step that has an address to talk to gets a network.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from shipway.component import IMAGES
from shipway.endpoints.process import LAUNCHER_VARIABLE, private_log, store_variables
from shipway.errors import InputError, ShipwayError
from shipway.lineage.digests import digest_file
from shipway.lineage.project import PROJECT_VARIABLE, RUN_FOLDER_VARIABLE, RUN_VARIABLE, STATE_VARIABLE
from shipway.lineage.tracking import URI_VARIABLE
from shipway.platforms.compile import SERVER_IMAGE, Images
from shipway.spec.resources import DEPLOYERS, TELLERS

if TYPE_CHECKING:
    import docker

RUN_LABEL = "shipway.state"
PIPELINE_LABEL = "shipway.pipeline"
REQUIREMENTS_FILE = "requirements.txt"
_REQUIREMENTS_LABEL = "shipway.requirements"
_FUNCTION = "--function_to_execute"
_EXECUTOR_INPUT = "--executor_input"
# Steps that keep something outside their outputs, below the state folder.
# Those of them that talk to the served model may have to start or end its server.
_KEEPERS = {"train", "champion", "register", "candidate", "resolve", "predict", "gather", "monitor"} | {
    *TELLERS,
    *DEPLOYERS,
}
# Steps that talk to MLflow, or fetch what it names.
_TRACKERS = {"train", "champion", "evaluate", "register", "candidate", "approval", "resolve", "predict", "gather"}
_BASIC_VARIABLES = (
    *(PROJECT_VARIABLE, STATE_VARIABLE, RUN_VARIABLE, RUN_FOLDER_VARIABLE),
    *("SHIPWAY_GIT_SHA", "SHIPWAY_OIDC_ISSUER"),
)
_REMOTE_PREFIXES = (
    "AWS_",
    "MLFLOW_",
    "STORAGE_EMULATOR_HOST",
    "GOOGLE_CLOUD_PROJECT",
    "SHIPWAY_STAGING_PORT",
    "SHIPWAY_PRODUCTION_PORT",
)
_STOP_SECONDS = 5


@dataclass(frozen=True)
class Sandbox:
    """What the steps of a run share.

    Attributes:
        project: The user's project folder.
        state: The state folder.
        run: The run's folder.
        launcher: The socket on which servers can be asked for.
        data: URI or path of the rows; None when code of the user's brings them.
        pipeline: Which pipeline runs.
        reads: Step -> URIs or paths of what else it reads.
        writes: Step -> URIs or paths of the folders, besides its outputs, that it writes to.
        secrets: Variables with the addresses of the people and services that are told; those that tell get them.
    """

    project: Path
    state: Path
    run: Path
    launcher: Path
    data: str | None
    pipeline: str = "training"
    reads: Mapping[str, Sequence[str]] = field(default_factory=dict)
    writes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    secrets: Sequence[str] = ()

    @property
    def labels(self) -> dict[str, str]:
        """What marks the run's containers."""
        return {RUN_LABEL: str(self.state), PIPELINE_LABEL: self.pipeline}

    @property
    def scratch(self) -> Path:
        """Folder of the steps' /tmp, one a step."""
        return self.state / "scratch" / self.run.name

    @property
    def remote_data(self) -> bool:
        """Whether ingest reads from an address, or by code that may."""
        return self.data is None or "://" in self.data

    @property
    def local_data(self) -> Path | None:
        """The file or folder of this machine that ingest reads, for a glob the folder above its first sign."""
        return None if self.data is None or "://" in self.data else self.place(self.data)

    def place(self, path: str) -> Path:
        """Returns the file or folder that a path of a spec names, for a glob the folder above its first sign."""
        parts = (self.project / path).parts
        return Path(*itertools.takewhile(lambda part: not any(sign in part for sign in "*?["), parts))

    def elsewhere(self, stage: str) -> list[str]:
        """Returns the URIs, of what a step reads or writes, that are not on this machine."""
        return [uri for uri in (*self.reads.get(stage, ()), *self.writes.get(stage, ())) if "://" in uri]

    def here(self, uris: Sequence[str]) -> list[Path]:
        """Returns the places of this machine among some URIs and paths."""
        return [self.place(uri) for uri in uris if "://" not in uri]


def check_images(images: Images, project: Path) -> Images:
    """Returns the images under their ids, which change when their contents do, unlike their tags.

    Raises:
        InputError: Docker does not answer, an image is missing or lacks the packages that the project wants, or the
            registry is a file that the steps would not see.
    """
    import docker

    _check_registry()

    try:
        client = docker.from_env()
        client.ping()
    except docker.errors.DockerException as error:
        raise InputError(
            f"--runner docker: no Docker engine answers here ({error}); start one, or use subprocess"
        ) from error
    with contextlib.closing(client):
        found = {}
        for image in (*IMAGES, SERVER_IMAGE):
            name = images.name(image)
            try:
                entry = client.images.get(name)
            except docker.errors.ImageNotFound as error:
                raise InputError(
                    f"--runner docker: no image {name} on this machine; build it with: make images"
                ) from error
            found[image] = str(entry.id)
            if image in IMAGES:
                _check_requirements(name, entry.labels.get(_REQUIREMENTS_LABEL, ""), project)
    return Images(pushed=found)


def _check_registry() -> None:
    uri = os.environ.get(URI_VARIABLE, "")
    if uri and urlsplit(uri).scheme in ("", "file", "sqlite"):
        raise InputError(
            f"--runner docker: {URI_VARIABLE} names a file, which the steps' containers do not see; name a server, or "
            "unset it to keep the registry in the state folder"
        )


def _check_requirements(name: str, built_for: str, project: Path) -> None:
    wanted = project / REQUIREMENTS_FILE
    if wanted.is_file() and digest_file(wanted).removeprefix("sha256:") != built_for:
        raise InputError(
            f"--runner docker: image {name} lacks the packages of {wanted}; build it: make images PROJECT={project}"
        )


@contextlib.contextmanager
def containers(images: Images, sandbox: Sandbox) -> Iterator[Any]:
    """Gives the runner for `kfp.local.init`; in the block its steps run as this module says.

    Args:
        images: The images by id, as `check_images` returns them.
        sandbox: What the steps share.
    """
    import docker
    from kfp import local
    from kfp.local import docker_task_handler

    class Handler(docker_task_handler.DockerTaskHandler):  # type: ignore[misc]
        """Runs one step in a container."""

        def run(self) -> Any:
            from kfp.local import status

            with contextlib.closing(docker.from_env(timeout=None)) as client:
                code = run_step(client, self.image, self.full_command, self.env_vars, sandbox)
            return status.Status.SUCCESS if code == 0 else status.Status.FAILURE

    original = docker_task_handler.DockerTaskHandler
    docker_task_handler.DockerTaskHandler = Handler
    with contextlib.closing(docker.from_env()) as client:
        _remove_leftovers(client, sandbox)
    sandbox.scratch.mkdir(parents=True, exist_ok=True)
    (sandbox.state / "endpoints").mkdir(mode=0o700, exist_ok=True)
    try:
        with _launcher(images.name(SERVER_IMAGE), sandbox):
            yield local.DockerRunner()
    finally:
        docker_task_handler.DockerTaskHandler = original
        shutil.rmtree(sandbox.scratch, ignore_errors=True)


def run_step(
    client: docker.DockerClient, image: str, command: Sequence[str], variables: Mapping[str, str], sandbox: Sandbox
) -> int:
    """Runs one step's command in a container, prints its log, and returns its exit code.

    Args:
        client: Docker; its calls must not time out, as a step may be silent for hours.
        image: The image's name or id.
        command: What kfp runs, as it comes out of a compiled pipeline.
        variables: The step's own environment variables.
        sandbox: What it may see and touch.

    Raises:
        ShipwayError: Docker cannot run it.
    """
    import docker

    stage = command[command.index(_FUNCTION) + 1]
    scratch = Path(tempfile.mkdtemp(dir=sandbox.scratch, prefix=f"{stage}-"))
    scratch.chmod(0o700)
    try:
        container = client.containers.create(
            image,
            list(command),
            environment={**_variables(stage, sandbox), **variables},
            mounts=_mounts(stage, command, scratch, sandbox),
            labels=sandbox.labels,
            network_mode="host" if _has_network(stage, sandbox) else "none",
            # The server is found by its process id, whichever container it lives in.
            pid_mode="host" if stage in DEPLOYERS else None,
            user=f"{os.getuid()}:{os.getgid()}",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=stage not in DEPLOYERS,
        )
    except docker.errors.DockerException as error:
        raise ShipwayError(f"step {stage}: Docker cannot make its container from {image}: {error}") from error
    try:
        container.start()
        for line in container.logs(stream=True, follow=True):
            print(line.decode(errors="replace"), end="")
        return int(container.wait()["StatusCode"])
    except docker.errors.DockerException as error:
        raise ShipwayError(f"step {stage}: Docker lost its container: {error}") from error
    finally:
        with contextlib.suppress(docker.errors.NotFound):
            container.remove(force=True)
        shutil.rmtree(scratch, ignore_errors=True)


def output_folder(command: Sequence[str]) -> Path:
    """Returns the folder that kfp gives a step for its outputs."""
    outputs = json.loads(command[command.index(_EXECUTOR_INPUT) + 1])["outputs"]
    return Path(outputs["outputFile"]).parent


def _mounts(stage: str, command: Sequence[str], scratch: Path, sandbox: Sandbox) -> list[Any]:
    own = output_folder(command)
    readable = [sandbox.project, sandbox.run]
    if stage == "ingest" and sandbox.local_data is not None:
        readable.append(sandbox.local_data)
    readable += [place for place in sandbox.here(sandbox.reads.get(stage, ())) if place.exists()]
    writable = [own, *sandbox.here(sandbox.writes.get(stage, ()))]
    for place in writable:
        place.mkdir(parents=True, exist_ok=True)
    if stage in _KEEPERS:
        writable.append(sandbox.state)
    else:
        # What the local registry keeps, among it the champion's package, lies beside the artifacts.
        readable += [folder for name in ("artifacts", "mlartifacts") if (folder := sandbox.state / name).is_dir()]
    if stage == "report":
        readable.remove(sandbox.run)
        writable.append(sandbox.run)
    places = {folder: (folder, True) for folder in readable} | {folder: (folder, False) for folder in writable}
    places[Path("/tmp")] = (scratch, False)  # noqa: S108 - the container's own
    if stage in DEPLOYERS:
        places[sandbox.launcher.parent] = (sandbox.launcher.parent, True)
    return [_mount(target, source, read_only) for target, (source, read_only) in places.items()]


def _mount(target: Path, source: Path, read_only: bool) -> Any:
    import docker

    return docker.types.Mount(str(target), str(source), type="bind", read_only=read_only)


def _has_network(stage: str, sandbox: Sandbox) -> bool:
    if stage in DEPLOYERS:
        return True
    if stage == "ingest":
        return sandbox.remote_data
    if sandbox.elsewhere(stage) or (stage in TELLERS and sandbox.secrets):
        return True
    return stage in _TRACKERS and bool(os.environ.get(URI_VARIABLE))


def _variables(stage: str, sandbox: Sandbox) -> dict[str, str]:
    found = {name: os.environ[name] for name in _BASIC_VARIABLES if name in os.environ}
    if _has_network(stage, sandbox):
        found |= {name: value for name, value in os.environ.items() if name.startswith(_REMOTE_PREFIXES)}
    if stage in TELLERS:
        found |= {name: os.environ[name] for name in sandbox.secrets if name in os.environ}
    if stage in DEPLOYERS:
        found[LAUNCHER_VARIABLE] = str(sandbox.launcher)
    return found


def _remove_leftovers(client: docker.DockerClient, sandbox: Sandbox) -> None:
    """Removes the ended containers of runs of the same pipeline that were killed; another pipeline may go on."""
    wanted = {
        "label": [f"{name}={value}" for name, value in sandbox.labels.items()],
        "status": ["exited", "created", "dead"],
    }
    for container in client.containers.list(all=True, filters=wanted):
        container.remove(force=True)


@contextlib.contextmanager
def _launcher(image: str, sandbox: Sandbox) -> Iterator[None]:
    """Starts servers for steps in containers: listens on the sandbox's socket while the block runs."""

    class Request(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            asked = json.loads(self.rfile.readline())
            log = Path(asked["log"])
            if log.parent.parent != sandbox.state / "endpoints":
                raise ShipwayError(f"{log}: a server's log lies in a folder of {sandbox.state / 'endpoints'}")
            name = f"shipway-server-{secrets.token_hex(6)}"
            server = start_server(image, name, asked["arguments"], log, sandbox)
            threading.Thread(target=self._listen, args=(name,), daemon=True).start()
            with contextlib.suppress(OSError):
                self.wfile.write(json.dumps({"exit": server.wait()}).encode() + b"\n")

        def _listen(self, name: str) -> None:
            with contextlib.suppress(OSError, ValueError):
                if self.rfile.readline():
                    subprocess.run(["docker", "kill", name], check=False, capture_output=True)

    with socketserver.ThreadingUnixStreamServer(str(sandbox.launcher), Request) as server:
        # Its connections last as long as the servers that were asked for.
        server.daemon_threads = True
        server.block_on_close = False
        threading.Thread(target=server.serve_forever, name="launcher", daemon=True).start()
        try:
            yield
        finally:
            server.shutdown()


def start_server(
    image: str, name: str, arguments: Sequence[str], log: Path, sandbox: Sandbox
) -> subprocess.Popen[bytes]:
    """Starts a model server in a container of its own, which outlives the run.

    Returns:
        The attached Docker client, which ends as the server does.
    """
    command = ["docker", "run", "--rm", "--name", name, "--network", "host", "--pid", "host", "--read-only"]
    command += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--no-healthcheck"]
    command += ["--user", f"{os.getuid()}:{os.getgid()}", "--tmpfs", "/tmp"]  # noqa: S108 - the container's own
    command += _server_mounts(arguments, sandbox)
    # Docker takes the values from this process, so that none shows on a command line.
    for variable in sorted(store_variables(arguments)):
        command += ["--env", variable]
    command += [image, *arguments]
    with private_log(log) as handle:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, start_new_session=True)


def _server_mounts(arguments: Sequence[str], sandbox: Sandbox) -> list[str]:
    """Returns what a server sees of this machine: its endpoints, its prediction log, the project of a flag provider."""
    endpoints, predictions = sandbox.state / "endpoints", sandbox.state / "predictions"
    places = [f"type=bind,source={endpoints},target={endpoints}"]
    if "--log-uri" in arguments:
        predictions.mkdir(mode=0o700, exist_ok=True)
        places.append(f"type=bind,source={predictions},target={predictions}")
    options = [word for place in places for word in ("--mount", place)]
    if "--flag-provider" in arguments:
        options += ["--mount", f"type=bind,source={sandbox.project},target={sandbox.project},readonly"]
        options += ["--env", f"{PROJECT_VARIABLE}={sandbox.project}"]
    return options
