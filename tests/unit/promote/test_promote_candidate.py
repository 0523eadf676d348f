"""Which version is promoted, and which one it takes over from."""

import pytest
from promotion_registry import register_versions

from shipway.errors import InputError, RejectedError
from shipway.lineage.documents import Release, read_document, read_optional
from shipway.model.promotion import RegistryLedger, release_before
from shipway.model.registry import set_alias
from shipway.promote.candidate import candidate

pytestmark = pytest.mark.slow


def find(folder, version="", **options):
    found = candidate("flights", folder / "release", folder / "stable", version, **options)
    assert read_document(Release, folder / "release") == found.release
    assert read_optional(Release, folder / "stable") == found.stable
    return found.release.version, found.stable.version if found.stable else None


def test_what_passed_on_staging_is_promoted(tmp_path):
    with pytest.raises(InputError, match="no model 'flights'"):
        find(tmp_path)
    one, two, three = register_versions(tmp_path, 3)
    with pytest.raises(InputError, match=r"no version that passed its smoke test.*staging-verified"):
        find(tmp_path)
    set_alias("flights", "staging-verified", "2")
    assert find(tmp_path) == ("2", None)
    assert find(tmp_path, "3") == ("3", None)
    assert find(tmp_path, "staging") == ("3", None)
    ledger = RegistryLedger()
    ledger.live(one, "")
    assert find(tmp_path) == ("2", "1")
    ledger.live(two, "1")
    # A pipeline that is run again after its version went live still knows the way back.
    assert find(tmp_path) == ("2", "1")
    ledger.live(three, "2")
    assert find(tmp_path, "3") == ("3", "2")
    assert find(tmp_path, "1") == ("1", "3")


def test_a_marked_version_needs_an_override(tmp_path):
    one, two = register_versions(tmp_path, 2)
    ledger = RegistryLedger()
    ledger.live(one, "")
    ledger.rolled_back(two, "slow", mark=True, stable_version="1")
    set_alias("flights", "staging-verified", "2")
    with pytest.raises(RejectedError, match="slow"):
        find(tmp_path)
    assert not (tmp_path / "release").exists()
    assert find(tmp_path, override="it was the network", who="ann") == ("2", "1")


def test_a_mark_on_the_champion_does_not_keep_it_from_being_returned_to(tmp_path):
    one, _ = register_versions(tmp_path, 2)
    ledger = RegistryLedger()
    ledger.live(one, "")
    ledger.rolled_back(one, "known to be poor", mark=True, stable_version="1")
    assert find(tmp_path, "2") == ("2", "1")


def test_the_version_before(tmp_path):
    one, two, _ = register_versions(tmp_path, 3)
    ledger = RegistryLedger()
    assert release_before("flights", "1") is None
    ledger.live(one, "")
    assert release_before("flights", "1") is None
    assert release_before("flights", "2").version == "1"
    ledger.live(two, "1")
    assert release_before("flights", "2").version == "1"
    assert release_before("flights", "3").version == "2"
