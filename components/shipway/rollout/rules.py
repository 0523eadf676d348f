"""Rules with durations: which of them ends or holds a rollout now."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from shipway.spec.rollout import Action, Rule

State = Literal["ok", "violated", "unclear"]

AGREEMENT = "agreement"
REQUESTS = "requests"
_GRAVITY: tuple[Action, ...] = ("rollback", "halt", "hold", "alert")


@dataclass(frozen=True, slots=True)
class RuleSetting:
    """A rule as the state machine applies it.

    Attributes:
        key: Its name within the rollout, as `1:error_rate`.
        text: It in words, as `error_rate <= 0.01 for 5m`.
        action: What follows once it is violated.
        seconds: How long its condition has to hold.
        dry_run: Whether it is measured and reported only.
        incident: Whether its alert is an incident.
        rule: The spec's rule; None for what is no rule of the spec (agreement in the shadow).
    """

    key: str
    text: str
    action: Action = "rollback"
    seconds: float = 0.0
    dry_run: bool = False
    incident: bool = False
    rule: Rule | None = None

    @property
    def decides(self) -> bool:
        """Whether it can end or hold the rollout."""
        return not self.dry_run and self.action != "alert"


class Verdict(BaseModel):
    """What the evidence says about a rule now.

    Attributes:
        key: The rule's key, or `requests`.
        state: ok: the value is within its bound, and enough of it was seen; violated: the sequential test says that it
            is beyond; unclear: neither.
        needed: Whether the rollout may not go on while this is unclear.
        value: The candidate's value.
        bound: What it is compared with.
        baseline: The baseline's value, where there is one.
        evidence: Log e-value, or standard errors, or p-value: what the test found.
        wanted: What `evidence` has to reach (or fall below, for a p-value) to count.
        since: When the trouble seems to have begun, seconds since the epoch.
        note: Why it is unclear, or how it was compared.
    """

    model_config = ConfigDict(extra="forbid")

    key: str
    state: State
    needed: bool = True
    value: float | None = None
    bound: float | None = None
    baseline: float | None = None
    evidence: float | None = None
    wanted: float | None = None
    since: float | None = None
    note: str = ""


def rule_settings(rules: Sequence[Rule]) -> tuple[RuleSetting, ...]:
    """Returns a spec's rules as the state machine applies them."""
    return tuple(
        RuleSetting(
            f"{place}:{rule.metric}", words(rule), rule.action, float(rule.seconds), rule.dry_run, rule.incident, rule
        )
        for place, rule in enumerate(rules)
    )


def words(rule: Rule) -> str:
    """Returns a rule in words."""
    if rule.max is not None:
        bound = f"<= {rule.max:g}"
    elif rule.max_ratio is not None:
        bound = f"<= {rule.max_ratio:g} x baseline" + (f" (or <= {rule.floor:g})" if rule.floor else "")
    else:
        bound = f">= {1 - (rule.max_drop or 0.0):g} x baseline"
    return f"{rule.metric} {bound}" + (f" for {rule.for_}" if rule.seconds else "")


def pending(before: Mapping[str, float], verdicts: Iterable[Verdict], now: float) -> dict[str, float]:
    """Returns since when each violated condition has held without a break, as Prometheus counts an alert's `for`.

    Args:
        before: The same at the last look.
        verdicts: This look.
        now: This moment; one before a `since` (the clock was set back) starts it anew.
    """
    return {verdict.key: min(before.get(verdict.key, now), now) for verdict in verdicts if verdict.state == "violated"}


def due(settings: Sequence[RuleSetting], since: Mapping[str, float], now: float) -> list[RuleSetting]:
    """Returns the rules whose condition has held for as long as they ask, the gravest first."""
    found = [
        setting
        for setting in settings
        if not setting.dry_run and setting.key in since and now - since[setting.key] >= setting.seconds
    ]
    return sorted(found, key=lambda setting: _GRAVITY.index(setting.action))
