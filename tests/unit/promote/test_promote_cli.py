"""`shipway approve`, and what `models list` and `lineage` tell, as real processes over a real registry."""

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest
from promotion_oidc import BEARER, issuer
from promotion_registry import package, register_versions

from shipway.lineage import tracking
from shipway.model import registry
from shipway.model.promotion import RegistryLedger, release_of

pytestmark = pytest.mark.slow

SHIPWAY = str(Path(sys.executable).parent / "shipway")
ME = pwd.getpwuid(os.getuid()).pw_name
SPEC = """\
name: flights
task: binary
data: {uri: rows.csv, label: y}
schema: {pandera: schema.yaml}
split: {by: hash, columns: [x]}
"""


def write_spec(folder, rollout):
    (folder / "shipway.yaml").write_text(SPEC + rollout)
    return folder / "shipway.yaml"


def shipway(folder, *arguments, **variables):
    environment = {**os.environ, "USER": "ann", "SUDO_USER": "ann", "LOGNAME": "ann", **variables}
    return subprocess.run(
        [SHIPWAY, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, env=environment
    )


def one_line(done, code):
    assert done.returncode == code, done.stdout + done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("shipway: ")
    return line


def approve(folder, version="1", name="flights", **variables):
    return shipway(
        folder, "approve", name, version, "--spec", "shipway.yaml", "--state", str(folder / "state"), **variables
    )


def test_approve(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    write_spec(tmp_path, f"rollout: {{approval: required, approvers: [{ME}]}}\n")
    first = approve(tmp_path)
    assert first.returncode == 0, first.stderr
    assert f"flights version 1 ({one.digest}): approved by {ME} on " in first.stdout
    assert approve(tmp_path, "staging").stdout.rpartition(" on ")[2] == first.stdout.rpartition(" on ")[2]
    told = json.loads(shipway(tmp_path, "lineage", "flights@1", "--state", "state").stdout)
    (given,) = told["promotion"]["approvals"]
    assert (given["who"], given["digest"]) == (ME, one.digest)
    assert told["promotion"]["decision"] == "blessed"
    assert told["promotion"]["evaluation"].startswith("sha256:")
    assert told["tags"] == {}


def test_approve_by_somebody_else(tmp_path):
    register_versions(tmp_path, 1)
    write_spec(tmp_path, "rollout: {approval: required, approvers: [ann, ben]}\n")
    assert one_line(approve(tmp_path), 3) == f"shipway: {ME} may not approve: rollout.approvers has ann, ben"
    write_spec(tmp_path, "")
    assert "rollout.approvers and rollout.environment are both empty" in one_line(approve(tmp_path), 2)


def test_approve_what_is_not_there(tmp_path):
    write_spec(tmp_path, f"rollout: {{approval: required, approvers: [{ME}]}}\n")
    assert "no model 'flights'" in one_line(approve(tmp_path), 2)
    register_versions(tmp_path, 1)
    assert "its versions: 1; its aliases: staging -> 1" in one_line(approve(tmp_path, "9"), 2)
    assert "shipway.yaml: it is of model 'flights', not of 'trains'" in one_line(approve(tmp_path, name="trains"), 2)
    registry.publish("flights", package(tmp_path / "bare", "bare"), {})
    assert "the registry has no blessing of it" in one_line(approve(tmp_path, "2"), 3)


def test_approve_in_a_job_of_a_protected_environment(tmp_path):
    register_versions(tmp_path, 1)
    write_spec(tmp_path, "rollout: {approval: required, environment: 'acme/flights:production'}\n")
    with issuer() as github:
        job = {
            "GITHUB_ACTIONS": "true",
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{github.url}/token?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
            "SHIPWAY_OIDC_ISSUER": github.url,
        }
        github.claims = {"environment": "staging"}
        refused = one_line(approve(tmp_path, **job), 3)
        assert "ann-of-github (acme/flights:staging) may not approve: rollout.environment is" in refused
        github.claims = {}
        done = approve(tmp_path, **job)
        assert done.returncode == 0, done.stderr
        assert "approved by ann-of-github (acme/flights:production)" in done.stdout
        said = refused + done.stdout + done.stderr
        assert BEARER not in said
        assert not any(token.rpartition(".")[2] in said for token in github.tokens)
    # Without the job's variables the same account is nobody.
    assert "rollout.approvers has nobody" in one_line(approve(tmp_path), 3)


def test_lists_and_lineage_tell_of_marks(tmp_path):
    one, two = register_versions(tmp_path, 2)
    ledger = RegistryLedger()
    ledger.live(one, "")
    ledger.live(two, "1")
    ledger.baseline(two, {"latency_p99_ms": 3})
    ledger.rolled_back(two, "P99 [over] twice the baseline", mark=True, stable_version="1")
    release_of("flights", "2", override="it was the network", who="ben")
    listed = shipway(tmp_path, "models", "list", "--state", "state")
    assert listed.returncode == 0, listed.stderr
    second, first = (line for line in listed.stdout.splitlines() if line.lstrip().startswith("flights"))
    assert "champion" in first
    assert "rolled back" in second
    assert "UTC: P99 [over] twice the baseline; overridden by ben: it was the network" in second
    told = json.loads(shipway(tmp_path, "lineage", "flights@2", "--state", "state").stdout)["promotion"]
    assert told["rolled_back"]["reason"] == "P99 [over] twice the baseline"
    assert told["override"]["who"] == "ben"
    assert told["live"]["after"] == "1"
    assert "baseline-" in told["baseline"]
    tracking.client().set_model_version_tag("flights", "1", "shipway.rolled_back", "yes")
    listed = shipway(tmp_path, "models", "list", "--state", "state")
    assert listed.returncode == 0
    assert "the tag shipway.rolled_back is not of Shipway's making" in listed.stdout


def test_nothing_to_roll_back_or_to_look_at(tmp_path):
    assert "nothing is served in production" in one_line(shipway(tmp_path, "rollback", "flights"), 2)
    status = shipway(tmp_path, "rollout", "status", "flights")
    assert status.returncode == 0, status.stderr
    assert "flights: nothing is served in production" in status.stdout
    assert "no rollout so far" in status.stdout
    assert "there is no --spec" in one_line(shipway(tmp_path, "rollout", "status", "flights", "--set", "a=1"), 2)
