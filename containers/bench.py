"""Prints what the images cost: bytes, seconds to a first line, seconds a step. `make bench-images` calls it.

Every figure is a median of fresh containers over a warm page cache; the bare base image stands beside the others. A
step's seconds are those of the penguins' 344 rows, whose work is next to nothing: what is left is container, imports
and bookkeeping.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SPEC = ROOT / "pipelines" / "examples" / "penguins" / "shipway.yaml"
IMAGES = ("components", "trainer", "deployer", "monitor", "server", "trigger")


def first_line(image: str, runs: int) -> float:
    """Returns the median seconds from `docker run` to the first line that Python prints."""
    taken = []
    for _ in range(runs):
        command = [
            "docker",
            "run",
            "--rm",
            "--network",
            "none",
            "--entrypoint",
            "python3",
            image,
            "-c",
            "print('here')",
        ]
        started = time.monotonic()
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            line = process.stdout.readline() if process.stdout else ""
            taken.append(time.monotonic() - started)
        if line != "here\n":
            sys.exit(f"{image}: Python does not run in it")
    return statistics.median(taken)


def size(image: str) -> float:
    """Returns an image's size in GB (10^9 bytes)."""
    command = ["docker", "image", "inspect", "--format", "{{.Size}}", image]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1e9


def steps(repository: str, runs: int) -> dict[str, float]:
    """Returns the median seconds of each step of the penguins in containers."""
    taken: dict[str, list[float]] = {}
    shipway = str(Path(sys.executable).parent / "shipway")
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(runs):
            options = ["--runner", "docker", "--repository", repository, "--no-cache"]
            subprocess.run([shipway, "run", str(SPEC), *options], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for step in json.loads(Path(folder, "runs", "latest", "summary.json").read_text())["steps"]:
                taken.setdefault(step["name"], []).append(step["seconds"])
        subprocess.run([shipway, "down"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repository", default="shipway")
    parser.add_argument("--tag", required=True)
    parser.add_argument("--base", default="shipway-base:bookworm")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    names = [options.base, *(f"{options.repository}/{image}:{options.tag}" for image in IMAGES)]
    reference = first_line(options.base, options.runs)
    print(f"{'image':<36}{'GB':>6}{'first line, s':>16}{'x base':>9}")
    for name in names:
        seconds = first_line(name, options.runs)
        print(f"{name:<36}{size(name):>6.2f}{seconds:>16.2f}{seconds / reference:>9.2f}")
    print(f"\n{'step (penguins)':<36}{'s':>6}")
    for name, seconds in steps(options.repository, max(1, options.runs // 2)).items():
        print(f"{name:<36}{seconds:>6.1f}")


if __name__ == "__main__":
    main()
