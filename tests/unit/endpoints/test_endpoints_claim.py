"""The claim of a server process on a name."""

import subprocess
import sys
from pathlib import Path

import pytest

from shipway.endpoints.claim import Claim, Claimant, ClaimHeldError, claimant
from shipway.errors import ShipwayError

HOLDER = """
import sys
from pathlib import Path
from shipway.endpoints.claim import Claim, Claimant
claim = Claim(Path(sys.argv[1]))
claim.announce(Claimant(1, "127.0.0.1", 4001, "before"))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_new_holder_is_not_taken_for_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "claim"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as before:
        assert before.stdout is not None
        assert before.stdout.readline() == "held\n"
        with pytest.raises(ClaimHeldError):
            Claim(path)
        assert claimant(path) == Claimant(1, "127.0.0.1", 4001, "before")
        before.kill()
    assert claimant(path) is None
    after = Claim(path)
    with pytest.raises(ShipwayError, match="without saying which"):
        claimant(path)
    after.announce(Claimant(2, "127.0.0.1", 4002, "after"))
    assert claimant(path) == Claimant(2, "127.0.0.1", 4002, "after")
