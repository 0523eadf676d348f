"""The registry over a real MLflow: registered once however often, wherever a call broke off, and found again."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from shipway.errors import DigestMismatchError, InputError, NotBlessedError, ShipwayError
from shipway.lineage import tracking
from shipway.lineage.digests import digest_tree
from shipway.lineage.documents import Blessing, Evaluation, Release, RuleResult, read_document
from shipway.lineage.git import git_sha
from shipway.model import registry
from shipway.model.fetch import fetch_package
from shipway.register.register import register_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A migrated MLflow database: making one takes seconds, copying it none."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("SHIPWAY_STATE", str(folder))
        tracking.client().search_registered_models()
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch, empty_database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "the state"))
    monkeypatch.setenv("SHIPWAY_RUN_ID", "run-1")
    monkeypatch.setenv("SHIPWAY_GIT_SHA", "abc123")
    (tmp_path / "the state").mkdir()
    shutil.copy(empty_database, tmp_path / "the state" / "mlflow.db")
    return tmp_path / "the state"


def package(folder, content="1"):
    (folder / "estimator").mkdir(parents=True)
    (folder / "MLmodel").write_text("flavors: {}\n")
    (folder / "package.json").write_text("{}")
    (folder / "estimator" / "weights").write_text(content)
    return folder


def judged(folder, **changes):
    digest = digest_tree(folder)
    evaluation = Evaluation(
        task="binary", model_digest=digest, data_version="sha256:test", rows=10, metrics={"roc_auc": 0.9, "f1": 0.5}
    )
    rule = RuleResult(rule="roc_auc >= 0.5", metric="roc_auc", value=0.9, bound=0.5, passed=True)
    blessing = Blessing(
        **{
            "decision": "blessed",
            "model_digest": digest,
            "evaluation_digest": evaluation.content_digest(),
            "rules": [rule],
            **changes,
        }
    )
    return evaluation, blessing


def register(folder, name="flights", train_run_id="", **changes):
    return register_model(folder, *judged(folder, **changes), name, "sha256:data", "sha256:spec", train_run_id)


def test_a_version_carries_its_lineage_and_its_package_outlives_the_run(state, tmp_path):
    folder = package(tmp_path / "model")
    digest = digest_tree(folder)
    release = register(folder)
    assert (release.name, release.version, release.digest, release.created) == ("flights", "1", digest, True)
    shutil.rmtree(folder)
    kept = fetch_package(release.package_uri, tmp_path / "unused")
    assert digest_tree(kept) == digest
    assert kept.is_relative_to(state / "mlartifacts")
    assert not (tmp_path / "unused").exists()
    found = registry.lineage("flights")
    assert found["aliases"] == ["staging"]
    assert found["digest"] == digest
    assert found["run_id"] == "run-1"
    assert found["data_version"] == "sha256:data"
    assert found["git_sha"] == "abc123"
    assert found["spec_digest"] == "sha256:spec"
    assert found["metrics"] == {"roc_auc": 0.9, "f1": 0.5}
    assert found["package_uri"] == release.package_uri
    assert found["train_run"] is None
    json.dumps(found)


def test_the_same_package_is_registered_once(tmp_path, monkeypatch):
    folder = package(tmp_path / "model")
    first = register(folder)
    monkeypatch.setenv("SHIPWAY_RUN_ID", "run-2")
    again = register(package(tmp_path / "elsewhere"))
    assert again.version == first.version
    assert again.package_uri == first.package_uri
    assert not again.created
    assert len(registry.list_models()) == 1
    assert registry.lineage("flights")["run_id"] == "run-1"


def test_another_package_or_another_name_is_another_version(tmp_path):
    register(package(tmp_path / "one"))
    second = register(package(tmp_path / "two", "2"))
    other = register(package(tmp_path / "three"), name="trains")
    assert (second.version, other.version) == ("2", "1")
    listed = [(model.name, model.version, model.aliases) for model in registry.list_models()]
    assert listed == [("flights", "2", ["staging"]), ("flights", "1", []), ("trains", "1", ["staging"])]
    # The older package again is what is staged now.
    register(tmp_path / "one")
    assert registry.lineage("flights", "staging")["version"] == "1"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"decision": "rejected", "reasons": ["roc_auc >= 1: found 0.9"]}, "roc_auc >= 1: found 0.9"),
        ({"decision": "Blessed"}, "is not blessed"),
        ({"model_digest": "sha256:other"}, "the blessing is for model sha256:other"),
        ({"evaluation_digest": "sha256:other"}, "the blessing rests on evaluation sha256:other"),
    ],
)
def test_what_is_not_blessed_is_not_registered(tmp_path, changes, why):
    with pytest.raises(NotBlessedError, match=why):
        register(package(tmp_path / "model"), **changes)
    assert registry.list_models() == []


def test_a_package_changed_after_its_blessing_is_not_registered(tmp_path):
    folder = package(tmp_path / "model")
    evaluation, blessing = judged(folder)
    (folder / "estimator" / "weights").write_text("tampered")
    with pytest.raises(NotBlessedError, match="but this is"):
        register_model(folder, evaluation, blessing, "flights", "sha256:data", "sha256:spec")
    assert registry.list_models() == []


def test_an_evaluation_of_another_model_is_no_evidence(tmp_path):
    folder = package(tmp_path / "model")
    evaluation, blessing = judged(folder)
    evaluation.model_digest = "sha256:other"
    blessing.evaluation_digest = evaluation.content_digest()
    with pytest.raises(NotBlessedError, match="the evaluation is of model sha256:other"):
        register_model(folder, evaluation, blessing, "flights", "sha256:data", "sha256:spec")


class CrashError(Exception):
    pass


class Breaking:
    """A real client that crashes before or after its n-th call."""

    def __init__(self, real, at, after):
        self.real, self.left, self.after = real, at, after

    def __getattr__(self, name):
        method = getattr(self.real, name)

        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0 and not self.after:
                if name == "log_artifacts":
                    self.upload_half(arguments[0], arguments[2])
                raise CrashError
            if self.left == 0 and name == "create_model_version":
                # A registry that does not write a version and its tags in one go.
                options.pop("tags")
            result = method(*arguments, **options)
            if self.left == 0:
                raise CrashError
            return result

        return call

    def upload_half(self, run_id, path):
        target = Path(self.real.get_run(run_id).info.artifact_uri) / path
        target.mkdir(parents=True)
        (target / "MLmodel").write_text("flav")


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_call_is_made_good_by_the_next_run(tmp_path, monkeypatch, after):
    for at in range(1, 100):
        folder = package(tmp_path / f"model-{after}-{at}", f"{after} {at}")
        breaking = Breaking(tracking.client(), at, after)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "client", lambda breaking=breaking: breaking)
            try:
                register(folder, name=f"model-{at}")
            except CrashError:
                crashed = True
            else:
                crashed = False
        if crashed:
            register(folder, name=f"model-{at}")
        versions = [model for model in registry.list_models() if model.name == f"model-{at}"]
        assert len(versions) == 1, at
        found = registry.lineage(f"model-{at}")
        assert found["aliases"] == ["staging"], at
        assert (found["digest"], found["run_id"], found["metrics"]["roc_auc"]) == (digest_tree(folder), "run-1", 0.9)
        assert digest_tree(fetch_package(found["package_uri"], tmp_path)) == digest_tree(folder), at
        if not crashed:
            break
    assert at > 8


def test_two_runs_at_once_make_one_version(tmp_path):
    folder = package(tmp_path / "model")
    register(package(tmp_path / "first", "0"))
    barrier = threading.Barrier(3)

    def work():
        barrier.wait()
        return register(folder).version

    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(work) for _ in range(3)]]
    assert len(set(found)) == 1
    versions = [model for model in registry.list_models() if model.digest == digest_tree(folder)]
    assert len(versions) == 1
    assert versions[0].aliases == ["staging"]


def test_a_package_that_the_store_lost_or_damaged_is_uploaded_again(tmp_path):
    folder = package(tmp_path / "model")
    kept = fetch_package(register(folder).package_uri, tmp_path)
    (kept / "estimator" / "weights").write_text("damaged")
    assert not register(folder).created
    assert digest_tree(kept) == digest_tree(folder)
    shutil.rmtree(kept)
    register(folder)
    assert digest_tree(kept) == digest_tree(folder)


def test_a_store_that_cannot_hold_the_package_is_told(tmp_path):
    folder = package(tmp_path / "model")
    kept = fetch_package(register(folder).package_uri, tmp_path)
    (kept / "foreign").write_text("x")
    with pytest.raises(DigestMismatchError, match="the registry holds"):
        register(folder)


def test_the_training_run_keeps_the_package_and_shows_in_the_lineage(tmp_path):
    client = tracking.client()
    run = client.create_run(tracking.experiment_id(client, "flights"))
    client.log_param(run.info.run_id, "lr", 0.01)
    client.log_metric(run.info.run_id, "val_loss", 0.3)
    client.set_terminated(run.info.run_id)
    release = register(package(tmp_path / "model"), train_run_id=run.info.run_id)
    assert run.info.run_id in release.package_uri
    trained = registry.lineage("flights")["train_run"]
    assert trained == {
        "id": run.info.run_id,
        "status": "FINISHED",
        "params": {"lr": "0.01"},
        "metrics": {"val_loss": 0.3},
    }


def test_a_training_run_tracked_elsewhere_does_not_hinder(tmp_path):
    register(package(tmp_path / "model"), train_run_id="0123456789abcdef0123456789abcdef")
    assert registry.lineage("flights")["train_run"] is None


def test_the_champion(tmp_path):
    assert registry.champion("flights") == ""
    release = register(package(tmp_path / "model"))
    assert registry.champion("flights") == ""
    registry.set_alias("flights", "champion", "staging")
    expected = {"version": "1", "digest": release.digest, "package_uri": release.package_uri}
    assert json.loads(registry.champion("flights")) == expected


def test_a_champion_of_unknown_make_is_told(tmp_path):
    client = tracking.client()
    client.create_registered_model("flights")
    client.create_model_version("flights", str(package(tmp_path / "model")))
    registry.set_alias("flights", "champion", "1")
    with pytest.raises(ShipwayError, match=r"no tag shipway\.model_digest"):
        registry.champion("flights")
    assert registry.list_models()[0].digest == ""


def test_unknown_names_and_versions_list_what_there_is(tmp_path):
    with pytest.raises(InputError, match="no model 'flights': the registry has none"):
        registry.lineage("flights")
    register(package(tmp_path / "one"))
    register(package(tmp_path / "two", "2"))
    with pytest.raises(InputError, match="no model 'fligths': the registry has flights"):
        registry.lineage("fligths")
    with pytest.raises(InputError, match="no version or alias '7'; its versions: 1, 2; its aliases: staging -> 2"):
        registry.lineage("flights", "7")
    with pytest.raises(InputError, match="'prod'"):
        registry.set_alias("flights", "prod", "prod")
    assert registry.lineage("flights", "1")["version"] == "1"
    assert registry.lineage("flights")["version"] == "2"


def test_an_empty_registry_costs_no_mlflow(tmp_path):
    code = (
        "import sys\n"
        "from shipway.model.registry import champion, list_models\n"
        "assert champion('flights') == '' and list_models() == []\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    environment = {**os.environ, "SHIPWAY_STATE": str(tmp_path / "none")}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not (tmp_path / "none").exists()


def test_mlflow_keeps_quiet_and_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "work"
    package(folder / "model")
    code = "from shipway.model.registry import publish; publish('flights', 'model', {})"
    environment = {**os.environ, "SHIPWAY_STATE": str(folder / "new")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=environment, cwd=folder, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(path.name for path in folder.iterdir()) == ["model", "new"]


def test_a_state_folder_that_cannot_be_written_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SHIPWAY_STATE", str(tmp_path / "file" / "state"))
    with pytest.raises(InputError, match="cannot keep the model registry here"):
        register(package(tmp_path / "model"))


def test_git_sha(tmp_path, monkeypatch):
    monkeypatch.delenv("SHIPWAY_GIT_SHA", raising=False)
    assert git_sha(tmp_path) == "unknown"
    assert git_sha(tmp_path / "nowhere") == "unknown"

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "first")
    sha = git("rev-parse", "HEAD")
    assert git_sha(tmp_path) == sha
    (tmp_path / "a.py").write_text("2")
    assert git_sha(tmp_path) == f"{sha}-dirty"
    monkeypatch.setenv("SHIPWAY_GIT_SHA", "given")
    assert git_sha(tmp_path) == "given"


def test_passwords_in_the_tracking_uri_are_not_shown():
    assert tracking.shown_uri("postgresql://me:secret@db/mlflow") == "postgresql://me@db/mlflow"
    assert tracking.shown_uri("https://mlflow.example") == "https://mlflow.example"
    assert tracking.shown_uri("sqlite:////a/b@c/mlflow.db") == "sqlite:////a/b@c/mlflow.db"


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("/a/b c#d?e", "/a/b c#d?e"),
        ("a/b", "a/b"),
        ("file:///a/b%20c", "/a/b c"),
        ("file:/a", "/a"),
        ("file://localhost/a", "/a"),
        ("file://host/a", None),
        ("mlflow-artifacts:/1/a", None),
        ("models:/flights/1", None),
        ("s3://bucket/a", None),
    ],
)
def test_which_uris_are_local(uri, path):
    assert tracking.local_path(uri) == (path and Path(path))


def test_local_packages_are_used_in_place(tmp_path):
    folder = package(tmp_path / "a model")
    assert fetch_package(str(folder), tmp_path / "x") == folder
    assert fetch_package(folder.as_uri(), tmp_path / "x") == folder
    with pytest.raises(InputError, match="no model package here"):
        fetch_package(str(tmp_path / "nowhere"), tmp_path / "x")


def test_the_components(tmp_path, monkeypatch):
    from kfp import dsl

    from shipway.register.component import champion as champion_component
    from shipway.register.component import register as register_component

    folder = package(tmp_path / "model")
    evaluation, blessing = judged(folder)
    evaluation.write(tmp_path / "evaluation")
    blessing.write(tmp_path / "blessing")
    release = dsl.Artifact(name="r", uri=str(tmp_path / "out" / "release"), metadata={})
    inputs = {
        "model": dsl.Model(name="m", uri=str(folder), metadata={"mlflow_run_id": ""}),
        "evaluation": dsl.Artifact(name="e", uri=str(tmp_path / "evaluation"), metadata={}),
        "blessing": dsl.Artifact(name="b", uri=str(tmp_path / "blessing"), metadata={}),
        "release": release,
        "name": "flights",
        "data_version": "sha256:data",
        "spec_digest": "sha256:spec",
    }
    assert register_component.python_func(**inputs) == "1"
    written = read_document(Release, release.path)
    assert written.created
    assert written.blessing.decision == "blessed"
    record = json.loads((tmp_path / "out" / "step.json").read_text())
    assert record["facts"] == {
        "model": "flights",
        "version": "1",
        "model_digest": digest_tree(folder),
        "created": True,
    }
    executor = {"outputs": {"outputFile": str(tmp_path / "champion" / "executor_output.json")}}
    monkeypatch.setattr(sys, "argv", ["executor", "--executor_input", json.dumps(executor)])
    assert champion_component.python_func(name="flights") == ""
    assert json.loads((tmp_path / "champion" / "step.json").read_text())["status"] == "succeeded"
    blessing.decision = "rejected"
    blessing.write(tmp_path / "blessing")
    with pytest.raises(SystemExit) as ended:
        register_component.python_func(**inputs)
    assert ended.value.code == 3


@pytest.mark.slow
def test_through_a_server_that_keeps_the_artifacts(state, tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{state / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(tmp_path / "kept")]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path) as server:
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 180
            while True:
                try:
                    httpx.get(f"{url}/health", timeout=5).raise_for_status()
                    break
                except httpx.HTTPError:
                    assert server.poll() is None, (tmp_path / "log").read_text()
                    assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                    time.sleep(0.1)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
            folder = package(tmp_path / "model")
            release = register(folder)
            assert release.package_uri.startswith("mlflow-artifacts:")
            assert not register(folder).created
            fetched = fetch_package(release.package_uri, tmp_path / "fetched")
            assert fetched.is_relative_to(tmp_path / "fetched")
            assert digest_tree(fetched) == digest_tree(folder)
            registry.set_alias("flights", "champion", "1")
            assert json.loads(registry.champion("flights"))["package_uri"] == release.package_uri
        finally:
            server.terminate()
