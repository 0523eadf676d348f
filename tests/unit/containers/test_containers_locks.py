"""The images' locks: each a part of the whole lock, to the hash, and as small as its image's work."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]


def load(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"containers_{name}", ROOT / "containers" / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module
    found.loader.exec_module(module)
    return module


lock = load("lock")
WHOLE = lock.entries((ROOT / lock.WHOLE).read_text())
IMAGES = sorted(lock.settings()["images"])


def locked(image: str) -> dict[str, str]:
    return dict(lock.entries((ROOT / lock.image_lock(image)).read_text()))


def test_the_whole_lock_is_read_whole() -> None:
    text = (ROOT / lock.WHOLE).read_text()
    assert len(WHOLE) > 200
    # Each entry of a package that has one for each range of Python versions.
    assert WHOLE["numpy"].count("numpy==") == text.count("\nnumpy==") == 2
    assert sum(entry.count("--hash=") for entry in WHOLE.values()) == text.count("--hash=")


@pytest.mark.parametrize("image", [*IMAGES, "build"])
def test_an_images_lock_is_a_part_of_the_whole(image: str) -> None:
    """At the same versions, with the same hashes: what the tests run with is what ships."""
    entries = locked(image)
    assert entries
    for name, entry in entries.items():
        lines, known = set(entry.splitlines()), WHOLE[name]
        assert {line.strip(" \\") for line in lines if "--hash" in line} <= {
            line.strip(" \\") for line in known.splitlines()
        }, name
        assert {line.split(" ")[0] for line in lines if "==" in line} <= {
            line.split(" ")[0] for line in known.splitlines()
        }, name


@pytest.mark.parametrize(
    ("image", "absent"),
    [
        ("components", ("torch", "google-cloud-aiplatform", "kubernetes", "typer", "matplotlib", "pytest")),
        ("trainer", ("google-cloud-aiplatform", "kubernetes", "typer", "pandera", "matplotlib", "pytest")),
        ("deployer", ("torch", "pandera", "typer", "uvloop", "matplotlib", "pytest")),
        ("server", ("torch", "kfp", "mlflow", "pandera", "google-cloud-aiplatform", "pytest")),
        ("monitor", ("torch", "google-cloud-aiplatform", "kubernetes", "pandera", "matplotlib", "pytest")),
        ("trigger", ("torch", "onnxruntime", "evidently", "matplotlib", "pytest")),
    ],
)
def test_an_image_carries_no_more_than_its_work_needs(image: str, absent: tuple[str, ...]) -> None:
    assert not set(locked(image)) & set(absent)


def test_the_cpu_trainer_differs_by_cuda_alone() -> None:
    cuda, cpu = locked("trainer"), locked("trainer-cpu")
    gone = set(cuda) - set(cpu)
    assert "nvidia-cudnn-cu13" in gone
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in gone)
    assert set(cpu) <= set(cuda)
    assert {name for name in cpu if cpu[name] != cuda[name]} == {"torch"}
    version = cuda["torch"].partition(" ")[0]
    assert cpu["torch"].startswith(f"{version}+cpu ")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("pipelines/examples/*/requirements.txt")), ids=lambda p: p.parent.name
)
def test_an_examples_packages_are_the_whole_locks(path: Path) -> None:
    entries = lock.entries(path.read_text())
    assert entries
    assert all(entry == WHOLE[name] for name, entry in entries.items())


def test_no_lock_names_a_host() -> None:
    for path in (ROOT / "containers").glob("*.lock"):
        assert "://" not in path.read_text(), path.name


@pytest.mark.parametrize("image", ["components", "trainer", "deployer", "monitor"])
def test_an_image_that_runs_steps_has_kfps_executor(image: str) -> None:
    assert locked(image)["kfp"] == WHOLE["kfp"]
