"""Docker for the tests: is there an engine, and the images, built once for all of them."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPOSITORY = "shipway-test"
IMAGES = ("components", "trainer", "deployer", "monitor", "server", "trigger")
PROJECT = "pipelines/examples/penguins"


def missing() -> str:
    """Returns why there is no engine to test with, or ""."""
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return "no docker command on this machine"
    except subprocess.TimeoutExpired:
        return "docker info does not end"
    return "" if done.returncode == 0 else f"no Docker engine answers: {done.stderr.strip().splitlines()[-1]}"


def build_images() -> dict[str, str]:
    """Builds every image, for the penguins, and returns their names; test processes take turns."""
    with (Path(tempfile.gettempdir()) / f"{REPOSITORY}-{os.getuid()}.lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        command = [sys.executable, "containers/images.py", "build", "--repository", REPOSITORY, "--project", PROJECT]
        # torch for CUDA is 4 GB more; the step is the same.
        if folder := cpu_wheels():
            command += ["--torch", "cpu", "--wheels", folder]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        print(done.stdout)
    return {image: line.split()[0] for image, line in zip(IMAGES, done.stdout.splitlines(), strict=True)}


def cpu_wheels() -> str:
    """Returns a folder that pip looks into and that has torch's CPU wheel, or ""."""
    folders = os.environ.get("PIP_FIND_LINKS", "").split()
    return next((folder for folder in folders if list(Path(folder).glob("torch-*+cpu-*.whl"))), "")


def docker(*arguments: str, code: int = 0, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=timeout)
    assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
    return done


def python(image: str, program: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Runs a program in a new container as a cluster would run it, and returns what it printed."""
    safe = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none", "--entrypoint", "python")
    return docker("run", "--rm", *safe, *options, image, "-c", program, *arguments).stdout


def inspect(image: str) -> dict:
    return json.loads(docker("image", "inspect", image).stdout)[0]


def shipway(
    folder: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the real command in a folder."""
    command = [str(Path(sys.executable).parent / "shipway"), *arguments]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=600)


def readable(folder: Path) -> Path:
    """Makes a folder that a container's user may enter, whatever the umask, and its parents up to the temporary one."""
    folder.mkdir(parents=True, exist_ok=True)
    for place in (folder, *folder.parents):
        if place == Path(tempfile.gettempdir()):
            break
        place.chmod(place.stat().st_mode | 0o755)
    return folder
