"""Approvals over a real registry: who, when, which package; whom the spec names, and nobody else."""

import json
import os
import pwd
from datetime import UTC, datetime

import pytest
from promotion_registry import package, register, register_versions

from shipway.errors import InputError, NotBlessedError, RejectedError
from shipway.lineage import tracking
from shipway.model import registry
from shipway.model.approval import Approver, approval_of, approve, check_approver, require_approval
from shipway.model.promotion import RegistryLedger
from shipway.promote.approval import approval as approval_step
from shipway.promote.approval import give_approval
from shipway.promote.identity import approver
from shipway.spec import RolloutSection, dump_section

pytestmark = pytest.mark.slow

SECTION = RolloutSection(
    strategy="canary", approval="required", approvers=["ann", "ben"], environment="acme/flights:production"
)
GITHUB = "https://token.actions.githubusercontent.com"
JOB = Approver("octo[bot]", "github", "acme/flights:production", GITHUB, "acme/flights/actions/runs/7")


def test_an_approval_says_who_when_and_what(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    assert approval_of("flights", "1") is None
    given = approve("flights", "staging", Approver("ann"))
    assert (given.who, given.digest) == ("ann", one.digest)
    assert abs((datetime.now(UTC) - given.when).total_seconds()) < 600
    assert approval_of("flights", "1") == given
    assert require_approval(one, SECTION) == given
    assert approve("flights", "1", Approver("ann")) == given
    approve("flights", "1", JOB)
    assert approval_of("flights", "1").who == "octo[bot]"
    tags = tracking.client().get_model_version("flights", "1").tags
    assert sum(key.startswith("shipway.approval.") for key in tags) == 2


def test_without_one_a_promotion_is_refused(tmp_path):
    one, two = register_versions(tmp_path, 2)
    with pytest.raises(
        RejectedError,
        match=r"flights version 1 may not be promoted: nobody has approved it; ann, ben or a job of the environment "
        r"acme/flights:production can approve it with: shipway approve flights 1 --spec SPEC",
    ):
        require_approval(one, SECTION)
    approve("flights", "2", Approver("ann"))
    with pytest.raises(RejectedError, match="nobody has approved it"):
        require_approval(one, SECTION)
    assert require_approval(two, SECTION).who == "ann"
    assert require_approval(one, RolloutSection(strategy="canary")) is None


def test_one_by_somebody_else_does_not_count(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    approve("flights", "1", Approver("mallory"))
    with pytest.raises(RejectedError, match=r"mallory may not approve: rollout\.approvers has ann, ben"):
        require_approval(one, SECTION)
    approve("flights", "1", Approver("ben"))
    assert require_approval(one, SECTION).who == "ben"


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (Approver("mallory"), "rollout.approvers has ann, ben"),
        (Approver("ann", "github", "acme/flights:staging", GITHUB), "rollout.environment is acme/flights:production"),
        (
            Approver("ann", "github", "evil/flights:production", GITHUB),
            "rollout.environment is acme/flights:production",
        ),
        (Approver("x", "github", "acme/flights:production", "https://evil.example"), "the token is of https://evil"),
    ],
)
def test_whom_the_spec_does_not_name(given, why):
    with pytest.raises(RejectedError) as refused:
        check_approver(given, SECTION)
    assert why in str(refused.value)


def test_an_account_by_the_name_of_a_ci_actor_is_another_person():
    only_ci = RolloutSection(strategy="canary", approval="required", environment="acme/flights:production")
    check_approver(JOB, only_ci)
    with pytest.raises(RejectedError, match=r"rollout\.approvers has nobody"):
        check_approver(Approver("octo[bot]"), only_ci)
    only_people = RolloutSection(strategy="canary", approval="required", approvers=["octo[bot]"])
    with pytest.raises(RejectedError, match=r"the spec has no rollout\.environment"):
        check_approver(JOB, only_people)


def test_one_for_another_package_does_not_count(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    approve("flights", "1", Approver("ann"))
    changed = one.model_copy(update={"digest": "sha256:" + "0" * 64})
    with pytest.raises(RejectedError, match=f"ann approved digest {one.digest}, but this is sha256:000"):
        require_approval(changed, SECTION)


def test_one_from_before_a_rollback_does_not_count_and_is_renewed(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    first = approve("flights", "1", Approver("ann"))
    RegistryLedger().rolled_back(one, "slow", mark=True, stable_version="")
    with pytest.raises(RejectedError, match="ann approved it before it was rolled back"):
        require_approval(one, SECTION)
    second = approve("flights", "1", Approver("ann"))
    assert second.when > first.when
    assert require_approval(one, SECTION) == second


def test_what_is_not_blessed_cannot_be_approved(tmp_path):
    registry.publish("flights", package(tmp_path / "model", "1"), {})
    with pytest.raises(NotBlessedError):
        approve("flights", "1", Approver("ann"))
    with pytest.raises(InputError, match="no version or alias '7'"):
        approve("flights", "7", Approver("ann"))


def test_an_account_is_the_process_s_own(monkeypatch, tmp_path):
    for variable in ("USER", "LOGNAME", "SUDO_USER", "USERNAME"):
        monkeypatch.setenv(variable, "ann")
    me = pwd.getpwuid(os.getuid()).pw_name
    assert approver() == Approver(me)
    register_versions(tmp_path, 1)
    with pytest.raises(RejectedError, match=f"{me} may not approve"):
        give_approval("flights", "1", SECTION)
    assert approval_of("flights", "1") is None
    mine = RolloutSection(strategy="canary", approval="required", approvers=[me])
    assert give_approval("flights", "1", mine).who == me
    with pytest.raises(InputError, match="nobody may approve"):
        give_approval("flights", "1", RolloutSection(strategy="canary"))


def test_the_step(tmp_path):
    one = register(package(tmp_path / "model", "1"))
    one.write(tmp_path / "release")
    parameter = dump_section(SECTION)
    with pytest.raises(RejectedError, match="nobody has approved it"):
        approval_step(tmp_path / "release", parameter)
    approve("flights", "1", Approver("ann"))
    assert str(approval_step(tmp_path / "release", parameter).approver) == "ann"
    assert json.loads(parameter)["section"]["approvers"] == ["ann", "ben"]
