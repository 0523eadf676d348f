"""What a rollout can do next: one action at a time, each idempotent, and named for memory and messages."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["candidate", "stable", "baseline"]


@dataclass(frozen=True, slots=True)
class StageRevision:
    """Put a revision there with no traffic."""

    role: Role
    revision: str

    @property
    def label(self) -> str:
        """Its name in memory and messages."""
        return f"stage {self.role}"


@dataclass(frozen=True, slots=True)
class WarmUp:
    """Ask a revision for predictions of golden rows."""

    revision: str
    label: str = "warm up"


@dataclass(frozen=True, slots=True)
class Shift:
    """Give revisions their shares."""

    shares: tuple[tuple[str, int], ...]
    label: str = "shift"


@dataclass(frozen=True, slots=True)
class Mirror:
    """Mirror requests to a revision."""

    revision: str
    percent: int
    label: str = "mirror"


@dataclass(frozen=True, slots=True)
class Retire:
    """Take a revision away."""

    revision: str

    @property
    def label(self) -> str:
        """Its name in memory and messages."""
        return f"retire {self.revision}"


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the registry."""

    what: Literal["live", "baseline", "rolled_back"]

    @property
    def label(self) -> str:
        """Its name in memory and messages."""
        return f"tell {self.what}"


@dataclass(frozen=True, slots=True)
class Notify:
    """Tell people."""

    kind: str
    severity: Literal["info", "warning", "incident"]
    text: str
    key: str

    @property
    def label(self) -> str:
        """Its name in memory and messages."""
        return f"notify {self.key}"


@dataclass(frozen=True, slots=True)
class Wait:
    """Look again after a while."""

    label: str = "wait"


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""

    label: str = "done"


Action = StageRevision | WarmUp | Shift | Mirror | Retire | Tell | Notify | Wait | Done
