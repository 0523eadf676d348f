"""Builds and pushes Shipway's images; needs Python and Docker only. `make images` and `make push` call it.

`push` writes build/images.json, image -> name with digest, which `shipway compile --images` reads.
"""

import argparse
import contextlib
import functools
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OFFICIAL_BASE = "python:3.11-slim-bookworm"
DEBIAN_BASE = "shipway-base:bookworm"
_WHEELS_PORT = 48213
_PACKAGES = "python3,python3-venv,ca-certificates"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def project_table() -> dict[str, object]:
    """Returns pyproject.toml."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def images() -> list[str]:
    """Returns the images' names."""
    return list(project_table()["tool"]["shipway"]["images"])  # type: ignore[index]


def version() -> str:
    """Returns Shipway's version."""
    return str(project_table()["project"]["version"])  # type: ignore[index]


def requirements_digest(project: Path) -> str:
    """Returns a digest of the packages that a project wants in its images; "" when it wants none."""
    file = project / "requirements.txt"
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def build(options: argparse.Namespace) -> None:
    """Builds the images."""
    base = base_image(options.base)
    project = (ROOT / options.project).resolve()
    if not project.is_dir() or not project.is_relative_to(ROOT):
        sys.exit(f"--project: expected a folder below {ROOT}, found {options.project}")
    for image in options.image or images():
        lock = "trainer-cpu" if image == "trainer" and options.torch == "cpu" else image
        arguments = {
            "BASE_IMAGE": base,
            "LOCK": lock,
            "PROJECT": project.relative_to(ROOT).as_posix(),
            "REQUIREMENTS": requirements_digest(project),
            "VERSION": version(),
            "REVISION": revision(),
        }
        name = f"{options.repository}/{image}:{options.tag}"
        started = time.monotonic()
        with wheels(options.wheels if lock == "trainer-cpu" else "") as address:
            arguments["FIND_LINKS"] = address
            command = ["docker", "build", "--quiet", "--network", options.network, "--target", image, "--tag", name]
            command += [part for key, value in arguments.items() for part in ("--build-arg", f"{key}={value}")]
            print(f"building {name}", file=sys.stderr, flush=True)
            done = subprocess.run(
                [*command, "--file", "containers/Dockerfile", "."],
                cwd=ROOT,
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode != 0:
                sys.exit(f"{done.stdout}{done.stderr}\n{name}: docker build failed with exit {done.returncode}")
        size = int(docker("image", "inspect", "--format", "{{.Size}}", name)) / 1e9
        print(f"{name:<40} {size:6.2f} GB  {time.monotonic() - started:6.1f} s", flush=True)


def push(options: argparse.Namespace) -> None:
    """Pushes the images and writes their names with digests."""
    pushed = {}
    for image in options.image or images():
        local = f"{options.repository}/{image}:{options.tag}"
        remote = f"{options.registry}/{image}"
        docker("tag", local, f"{remote}:{options.tag}")
        docker("push", "--quiet", f"{remote}:{options.tag}")
        digests = json.loads(docker("image", "inspect", "--format", "{{json .RepoDigests}}", local))
        pushed[image] = next(digest for digest in digests if digest.startswith(f"{remote}@"))
        print(pushed[image], flush=True)
    output = Path(options.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    draft = output.with_suffix(".draft")
    draft.write_text(json.dumps(pushed, indent=2) + "\n")
    draft.replace(output)
    print(f"wrote {output}; compile with it: shipway compile SPEC --images {output}")


def base_image(wanted: str) -> str:
    """Returns the image to build on: the one wanted, else the official Python, else one made from Debian's packages."""
    if wanted:
        return wanted
    for name in (OFFICIAL_BASE, DEBIAN_BASE):
        if _quiet("docker", "image", "inspect", name):
            return name
    print(f"pulling {OFFICIAL_BASE}", file=sys.stderr)
    if _quiet("docker", "pull", "--quiet", OFFICIAL_BASE):
        return OFFICIAL_BASE
    if shutil.which("mmdebstrap") is None:
        sys.exit(
            f"{OFFICIAL_BASE} cannot be pulled here, and there is no mmdebstrap to make a base image with: "
            "install it (apt-get install mmdebstrap), or name an image with BASE_IMAGE=..."
        )
    print(f"it cannot be pulled here; making {DEBIAN_BASE} from Debian's packages", file=sys.stderr)
    debian_base()
    return DEBIAN_BASE


def debian_base() -> None:
    """Makes a base image from Debian's packages, for machines that reach no container registry.

    This machine's certificates go in: a proxy's own may be among them.
    """
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={_PACKAGES}"]
    command += [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "locale", "man")]
    if _CERTIFICATES.is_file():
        command.append(f"--customize-hook=copy-in {_CERTIFICATES} {_CERTIFICATES.parent}")
    with subprocess.Popen([*command, "bookworm", "-"], stdout=subprocess.PIPE) as packages:
        subprocess.run(["docker", "import", "-", DEBIAN_BASE], stdin=packages.stdout, check=True, stdout=2)
    if packages.returncode != 0:
        docker("image", "rm", DEBIAN_BASE)
        sys.exit(f"mmdebstrap failed with exit {packages.returncode}")


def revision() -> str:
    """Returns the commit, `-dirty` behind it when tracked files differ from it; `unknown` without git."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return "unknown"
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=ROOT, check=False).returncode
    return done.stdout.strip() + ("-dirty" if changed else "")


@contextlib.contextmanager
def wheels(place: str) -> Iterator[str]:
    """Gives an address where a build finds wheels; a folder is served on this machine's loopback meanwhile."""
    if not place or "://" in place:
        yield place
        return
    if not Path(place).is_dir():
        sys.exit(f"--wheels: expected a URL or a folder of wheels, found {place}")
    handler = functools.partial(_Quiet, directory=place)
    # Always the same address, as another one would build the image anew.
    with http.server.ThreadingHTTPServer(("127.0.0.1", _WHEELS_PORT), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Says nothing of requests."""


def docker(*arguments: str) -> str:
    """Runs docker and returns what it printed."""
    return subprocess.run(["docker", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _quiet(*command: str) -> bool:
    """Tells whether a command worked."""
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return done.returncode == 0


def main() -> None:
    """Builds or pushes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("build", build), ("push", push)):
        command = commands.add_parser(name, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--repository", default="shipway", help="what stands before an image's name (shipway)")
        command.add_argument("--tag", default=version(), help="the images' tag (Shipway's version)")
        command.add_argument("image", nargs="*", help="the images; default: all")
        if name == "build":
            command.add_argument("--base", default="", help=f"the base image ({OFFICIAL_BASE})")
            command.add_argument("--project", default="containers/no-project", help="the folder for /opt/project")
            command.add_argument("--torch", choices=("cuda", "cpu"), default="cuda", help="the trainer's torch (cuda)")
            command.add_argument("--wheels", default="", help="URL or folder of torch's CPU wheel")
            command.add_argument("--network", default="host", help="the network of the build's commands (host)")
        else:
            command.add_argument("--registry", required=True, help="where to push, as registry.example/team")
            command.add_argument("--output", default="build/images.json", help="the file of names with digests")
    options = parser.parse_args()
    try:
        engine = subprocess.run(["docker", "info"], check=False, capture_output=True, text=True)
        if engine.returncode != 0:
            sys.exit(f"no Docker engine answers: {engine.stderr.strip()}")
        options.function(options)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename}: no such program; install Docker")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{' '.join(error.cmd[:3])} ... failed with exit {error.returncode}")


if __name__ == "__main__":
    main()
