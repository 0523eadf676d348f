"""Somebody's yes is asked for when a promotion waits for it, and a rollback from the command line is told."""

import json

import pytest
from promotion_registry import register_versions

from shipway.errors import RejectedError
from shipway.promote.approval import approval
from shipway.spec import RolloutSection, dump_section
from shipway.spec.watch import NotifySection

pytestmark = pytest.mark.slow

SECTION = dump_section(RolloutSection(strategy="canary", approval="required", approvers=["ann"]))


def test_a_promotion_that_lacks_a_yes_asks_for_it_once_a_run(tmp_path, state):
    (release,) = register_versions(tmp_path, 1)
    release.write(tmp_path / "release.json")
    for _ in range(2):
        with pytest.raises(RejectedError, match="nobody has approved it"):
            approval(tmp_path / "release.json", SECTION, dump_section(NotifySection()))
    (alert,) = [json.loads(line) for line in (state / "alerts.jsonl").read_text().splitlines()]
    assert (alert["kind"], alert["key"]) == ("approval", "approval/flights/1/run-1")
    assert "shipway approve flights 1 --spec SPEC" in alert["text"]
    assert alert["facts"] == {"run": "run-1", "version": "1", "digest": release.digest}
