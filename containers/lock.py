"""Writes the lock files: one for everything, and from it one for each image.

An image's lock holds the extras that `[tool.shipway.images]` in pyproject.toml names, at the versions and hashes of the
whole lock, so that what the tests run with is what ships. Run it with `make lock`.
"""

import argparse
import re
import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WHOLE = Path("containers/requirements.lock")
BUILD = Path("containers/build.lock")
CPU_TORCH = Path("containers/torch-cpu.txt")
# A step's image: KFP starts its executor there.
_STEPS = ("components", "trainer", "deployer", "monitor")
_CUDA = re.compile(r"(torch|triton|nvidia-|cuda-)")
_ENTRY = re.compile(r"^([a-z0-9][a-z0-9._-]*)==.*\n(?:    --hash.*\n)+", flags=re.MULTILINE)
_COMPILE = ("pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header")


def image_lock(image: str) -> Path:
    """Returns where an image's lock lies, relative to the repository."""
    return Path("containers") / f"{image}.lock"


def settings() -> dict[str, Any]:
    """Returns `[tool.shipway]` of pyproject.toml: each image's extras, and the packages that no image needs."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        table: dict[str, Any] = tomllib.load(file)["tool"]["shipway"]
    return table


def write_whole(uv: str) -> None:
    """Resolves everything anew, keeping what is locked where it still fits."""
    _run(uv, *_COMPILE, "--all-extras", "--group", "dev", "--output-file", str(WHOLE), "pyproject.toml")


def write_part(uv: str, path: Path, *wanted: str) -> str:
    """Resolves some extras or groups within the whole lock, writes and returns their lock."""
    with tempfile.NamedTemporaryFile("r", suffix=".txt") as draft:
        options = ["--constraint", str(WHOLE), "--no-annotate", "--output-file", draft.name]
        options += [f"--no-emit-package={package}" for package in settings()["leave-out"]]
        _run(uv, *_COMPILE, *options, *wanted)
        text = Path(draft.name).read_text()
    (ROOT / path).write_text(text)
    return text


def write_image(uv: str, image: str, extras: list[str]) -> str:
    """Writes one image's lock and returns it."""
    text = write_part(uv, image_lock(image), "pyproject.toml", *(f"--extra={extra}" for extra in extras))
    if image in _STEPS:
        # The executor needs kfp itself and none of its dependencies.
        text += entries((ROOT / WHOLE).read_text())["kfp"]
        (ROOT / image_lock(image)).write_text(text)
    return text


def without_cuda(trainer: str) -> str:
    """Returns a trainer's lock with torch's CPU build instead of its CUDA build and the libraries that that needs."""
    kept = [entry for name, entry in entries(trainer).items() if not _CUDA.match(name)]
    return "".join([*kept, (ROOT / CPU_TORCH).read_text()])


def refresh(requirements: Path) -> None:
    """Brings the packages that a project's requirements.txt names to the versions and hashes of the whole lock."""
    known = entries((ROOT / WHOLE).read_text())
    named = entries(requirements.read_text())
    requirements.write_text("".join(known[name] for name in named))


def entries(lock: str) -> dict[str, str]:
    """Returns the entries of a lock, package -> version and hashes, without comments.

    A package may have several, each for other Python versions; they stay together.
    """
    found: dict[str, str] = {}
    for match in _ENTRY.finditer(lock):
        found[match[1]] = found.get(match[1], "") + match[0]
    return found


def _run(uv: str, *arguments: str) -> None:
    subprocess.run([uv, *arguments], cwd=ROOT, check=True)


def main() -> None:
    """Writes every lock."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uv", default="uv", help="the uv to resolve with")
    parser.add_argument("--parts", action="store_true", help="leave the whole lock as it is")
    options = parser.parse_args()
    if not options.parts:
        write_whole(options.uv)
    write_part(options.uv, BUILD, "--group", "build")
    images = {image: write_image(options.uv, image, extras) for image, extras in settings()["images"].items()}
    (ROOT / image_lock("trainer-cpu")).write_text(without_cuda(images["trainer"]))
    for requirements in sorted(ROOT.glob("pipelines/examples/*/requirements.txt")):
        refresh(requirements)


if __name__ == "__main__":
    main()
