"""The registry's part of a promotion, over a SQLite file and over MLflow's own server: blessings, marks, aliases."""

import itertools
import json
import uuid
from pathlib import Path

import pytest
from promotion_registry import judged, package, register, register_versions

from shipway.errors import DigestMismatchError, InputError, NotBlessedError, RejectedError, ShipwayError
from shipway.lineage import tracking
from shipway.lineage.digests import digest_tree
from shipway.model import promotion, registry
from shipway.model.promotion import RegistryLedger, any_release, baseline_of, evaluation_of, release_of, stable_of

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "server"])
def where(request, monkeypatch):
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server_url"))
    return request.param


@pytest.fixture
def name(where):
    """A model of one's own, since the server is shared."""
    return f"flights-{where}-{uuid.uuid4().hex[:8]}"


def aliases(name):
    found = tracking.client().get_registered_model(name).aliases
    return {alias: str(version) for alias, version in found.items() if alias in ("champion", "previous")}


def tags(name, version):
    return dict(tracking.client().get_model_version(name, version).tags)


def test_a_release_comes_back_with_its_blessing(tmp_path, name):
    registered, other = register_versions(tmp_path, 2, name)
    assert release_of(name, "1") == registered.model_copy(update={"created": False})
    assert release_of(name, "staging") == other.model_copy(update={"created": False})
    assert release_of(name, "1").blessing.rules[0].rule == "roc_auc >= 0.5"
    assert tags(name, "1")["shipway.decision"] == "blessed"
    with pytest.raises(InputError, match="no version or alias 'prod'; its versions: 1, 2"):
        release_of(name, "prod")
    with pytest.raises(InputError, match=r"no model 'nowhere'"):
        release_of("nowhere", "1")


def test_a_version_without_blessing_is_refused_until_it_is_registered_again(tmp_path, name):
    folder = package(tmp_path / "model", "1")
    registry.publish(name, folder, {})
    with pytest.raises(NotBlessedError, match=r"version 1: the registry has no blessing.*run the training pipeline"):
        release_of(name, "1")
    again = register(folder, name)
    assert (again.version, again.created) == ("1", False)
    assert release_of(name, "1").blessing == judged(folder)[1]


def test_a_blessing_of_another_package_is_refused(tmp_path, name):
    register_versions(tmp_path, 2, name)
    client = tracking.client()
    other = package(tmp_path / "other", "other")
    client.set_model_version_tag(name, "1", registry.DIGEST_TAG, digest_tree(other))
    with pytest.raises(NotBlessedError, match=r"its blessing is for model sha256:\w+, but this is sha256:"):
        release_of(name, "1")
    # The other version's blessing, named by its right digest, is not this one's either.
    client.set_model_version_tag(name, "2", registry.BLESSING_TAG, tags(name, "1")[registry.BLESSING_TAG])
    with pytest.raises(NotBlessedError, match="gone or was changed"):
        release_of(name, "2")


def test_a_blessing_that_was_changed_or_lost_is_refused(tmp_path):
    register_versions(tmp_path, 1)
    source = Path(tracking.client().get_model_version("flights", "1").source)
    (kept,) = source.parent.glob("blessing-*/blessing.json")
    whole = kept.read_text()
    for text in (whole.replace("0.5", "0.4"), whole[:40], ""):
        kept.write_text(text)
        with pytest.raises(NotBlessedError, match="version 1: its blessing is gone or was changed"):
            release_of("flights", "1")
    kept.unlink()
    with pytest.raises(NotBlessedError, match=r"no blessing\.json here"):
        release_of("flights", "1")
    register(tmp_path / "flights-1")
    assert release_of("flights", "1").blessing.decision == "blessed"


def test_a_first_blessing_stays(tmp_path, name):
    folder = package(tmp_path / "model", "1")
    register(folder, name)
    evaluation, blessing = judged(folder)
    evaluation.metrics["roc_auc"] = 0.95
    blessing.evaluation_digest = evaluation.content_digest()
    from shipway.register.register import register_model

    register_model(folder, evaluation, blessing, name, "sha256:data", "sha256:spec")
    assert release_of(name, "1").blessing == judged(folder)[1]
    assert evaluation_of(name, "1") == judged(folder)[0]


def test_an_evaluation_is_kept_with_its_version(tmp_path, name):
    folder = package(tmp_path / "model", "1")
    registry.publish(name, folder, {})
    assert evaluation_of(name, "1") is None
    register(folder, name)
    assert evaluation_of(name, "1") == evaluation_of(name, "staging") == judged(folder)[0]
    with pytest.raises(InputError, match="no version or alias '2'"):
        evaluation_of(name, "2")


def test_an_evaluation_that_was_changed_or_lost_is_told_and_made_good(tmp_path):
    register_versions(tmp_path, 1)
    source = Path(tracking.client().get_model_version("flights", "1").source)
    (kept,) = source.parent.glob("evaluation-*/evaluation.json")
    kept.write_text(kept.read_text().replace('"task"', '"tusk"'))
    with pytest.raises(DigestMismatchError, match=r"the evaluation kept there has digest sha256:"):
        evaluation_of("flights", "1")
    kept.unlink()
    with pytest.raises(InputError, match=r"no evaluation\.json here"):
        evaluation_of("flights", "1")
    register(tmp_path / "flights-1")
    assert evaluation_of("flights", "1") == judged(tmp_path / "flights-1")[0]


def test_going_live_moves_champion_and_previous(tmp_path, name):
    one, two, three = register_versions(tmp_path, 3, name)
    ledger = RegistryLedger()
    assert stable_of(name) is None
    ledger.live(one, "")
    assert aliases(name) == {"champion": "1"}
    ledger.live(two, "1")
    ledger.live(three, "2")
    assert aliases(name) == {"champion": "3", "previous": "2"}
    assert stable_of(name) == any_release(name, "3")
    before = tags(name, "3")
    ledger.live(three, "2")
    # A controller that was restarted may take the champion itself for what was there before.
    ledger.live(three, "3")
    assert tags(name, "3") == before
    assert aliases(name) == {"champion": "3", "previous": "2"}


def test_rolling_back_restores_what_was_before_and_marks(tmp_path, name):
    one, two, three = register_versions(tmp_path, 3, name)
    ledger = RegistryLedger()
    for release, before in ((one, ""), (two, "1"), (three, "2")):
        ledger.live(release, before)
    ledger.rolled_back(three, "P99 120 ms, over twice the baseline", mark=True, stable_version="2")
    assert aliases(name) == {"champion": "2", "previous": "1"}
    marked = tags(name, "3")
    ledger.rolled_back(three, "said again by a restarted controller", mark=True, stable_version="2")
    assert tags(name, "3") == marked
    assert json.loads(marked["shipway.rolled_back"])["reason"] == "P99 120 ms, over twice the baseline"
    with pytest.raises(RejectedError, match=r"version 3 was rolled back on .* UTC: P99 120 ms.*--override"):
        release_of(name, "3")
    with pytest.raises(RejectedError, match="was rolled back"):
        ledger.check(three)
    # The next one back has nothing behind it: version 1 was the first.
    ledger.rolled_back(two, "bad too", mark=True, stable_version="1")
    assert aliases(name) == {"champion": "1"}
    ledger.rolled_back(one, "and this", mark=True, stable_version="")
    assert aliases(name) == {}


def test_a_candidate_that_never_went_live_leaves_the_aliases(tmp_path, name):
    one, two, three = register_versions(tmp_path, 3, name)
    ledger = RegistryLedger()
    ledger.live(one, "")
    ledger.live(two, "1")
    ledger.rolled_back(three, "halted", mark=False, stable_version="2")
    assert aliases(name) == {"champion": "2", "previous": "1"}
    assert release_of(name, "3").version == "3"
    ledger.check(three)


def test_previous_is_never_a_marked_version(tmp_path, name):
    one, two, three = register_versions(tmp_path, 3, name)
    ledger = RegistryLedger()
    for release, before in ((one, ""), (two, "1"), (three, "2")):
        ledger.live(release, before)
    ledger.rolled_back(one, "found out later", mark=True, stable_version="")
    ledger.rolled_back(three, "bad", mark=True, stable_version="2")
    assert aliases(name) == {"champion": "2"}


def test_an_override_is_recorded_and_holds_for_one_mark(tmp_path, name):
    one, two = register_versions(tmp_path, 2, name)
    ledger = RegistryLedger()
    ledger.live(one, "")
    ledger.rolled_back(two, "slow", mark=True, stable_version="1")
    with pytest.raises(RejectedError):
        release_of(name, "2", override="  ")
    release_of(name, "2", override="the database was slow, not the model", who="ann")
    given = tags(name, "2")["shipway.override"]
    assert json.loads(given)["who"] == "ann"
    assert json.loads(given)["reason"] == "the database was slow, not the model"
    release_of(name, "2", override="the database was slow, not the model", who="ben")
    assert tags(name, "2")["shipway.override"] == given
    ledger.check(two)
    # Another promotion asks for another override.
    with pytest.raises(RejectedError):
        release_of(name, "2")
    ledger.rolled_back(two, "slow again", mark=True, stable_version="1")
    assert json.loads(tags(name, "2")["shipway.rolled_back"])["reason"] == "slow again"
    with pytest.raises(RejectedError, match="slow again"):
        ledger.check(two)


def test_a_check_compares_with_what_the_registry_has(tmp_path, name):
    one, two = register_versions(tmp_path, 2, name)
    ledger = RegistryLedger()
    ledger.check(one)
    with pytest.raises(DigestMismatchError, match=f"version 1 has digest {one.digest} in the registry"):
        ledger.check(one.model_copy(update={"digest": two.digest}))
    tracking.client().delete_model_version_tag(name, "1", registry.BLESSING_TAG)
    with pytest.raises(NotBlessedError):
        ledger.check(one)


def test_the_baseline_is_kept_with_the_version(tmp_path, name):
    (one,) = register_versions(tmp_path, 1, name)
    ledger = RegistryLedger()
    assert baseline_of(name, "1") is None
    measured = {"latency_p99_ms": 3.1, "predictions": {"counts": [1, 2]}, "features": {"délai": {"rows": 3}}}
    ledger.baseline(one, measured)
    assert baseline_of(name, "1") == measured
    uri = tags(name, "1")["shipway.baseline"]
    ledger.baseline(one, measured)
    assert tags(name, "1")["shipway.baseline"] == uri
    ledger.baseline(one, {"latency_p99_ms": 2.0})
    assert baseline_of(name, "staging") == {"latency_p99_ms": 2.0}


def test_a_changed_baseline_is_told(tmp_path):
    (one,) = register_versions(tmp_path, 1)
    RegistryLedger().baseline(one, {"latency_p99_ms": 3.1})
    uri = tags("flights", "1")["shipway.baseline"]
    (Path(uri) / "baseline.json").write_text('{"latency_p99_ms": 300}')
    with pytest.raises(DigestMismatchError, match="the baseline kept there has digest"):
        baseline_of("flights", "1")


def test_a_tag_of_other_making_is_told(tmp_path):
    register_versions(tmp_path, 1)
    tracking.client().set_model_version_tag("flights", "1", promotion.MARK_TAG, "yes")
    with pytest.raises(ShipwayError, match=r"the tag shipway\.rolled_back is not of Shipway's making: 'yes'"):
        release_of("flights", "1")


class CrashError(Exception):
    pass


class Breaking:
    """A real client that crashes before its n-th change, or after it."""

    def __init__(self, real, at, after):
        self.real, self.left, self.after = real, at, after

    def __getattr__(self, name):
        method = getattr(self.real, name)
        if not name.startswith(("set_", "delete_", "log_", "create_")):
            return method

        def call(*arguments, **options):
            self.left -= 1
            if self.left == 0 and not self.after:
                raise CrashError
            result = method(*arguments, **options)
            if self.left == 0:
                raise CrashError
            return result

        return call


def state_of(name):
    kept = {}
    for version in ("1", "2", "3"):
        found = tags(name, version)
        known = {key: json.loads(value) for key, value in found.items() if key in PROMOTION_TAGS}
        for value in known.values():
            value.pop("when")
        kept[version] = known
    return aliases(name), kept


PROMOTION_TAGS = (promotion.MARK_TAG, promotion.LIVE_TAG)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("action", ["live", "rolled_back"])
def test_a_crash_at_any_change_is_made_good_by_the_next_call(tmp_path, monkeypatch, action, after):
    folders = [package(tmp_path / str(number), str(number)) for number in range(3)]

    def prepared(name):
        one, two, three = (register(folder, name) for folder in folders)
        ledger = RegistryLedger()
        ledger.live(one, "")
        ledger.live(two, "1")
        if action == "live":
            return lambda: ledger.live(three, "2")
        ledger.live(three, "2")
        return lambda: ledger.rolled_back(three, "bad", mark=True, stable_version="2")

    whole = prepared("whole")
    whole()
    for at in itertools.count(1):
        name = f"{action}-{after}-{at}"
        act = prepared(name)
        with monkeypatch.context() as patch:
            broken = Breaking(tracking.client(), at, after)
            patch.setattr(registry, "client", lambda broken=broken: broken)
            try:
                act()
            except CrashError:
                crashed = True
            else:
                crashed = False
        between = aliases(name)
        if action == "live":
            # Whoever goes back by `previous` now comes to a version that was live.
            assert between["previous"] in ("1", "2")
            assert between["champion"] != "3" or between["previous"] == "2"
        elif between["champion"] != "3":
            assert promotion.MARK_TAG in tags(name, "3")
        act()
        assert state_of(name) == state_of("whole"), at
        if not crashed:
            break
    assert at > 2
