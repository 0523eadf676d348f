"""What a rollout is going to do: its phases and limits, out of the spec's section `rollout`."""

from dataclasses import dataclass, field, replace

from shipway.rollout.rules import AGREEMENT, RuleSetting, rule_settings
from shipway.spec.resources import duration_seconds
from shipway.spec.rollout import OutcomesSection, RolloutSection


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the rollout that is watched.

    Attributes:
        label: Its name in the report, as `shadow` or `5 %`.
        share: The candidate's percent of the traffic; 0 in the shadow.
        mirror: Percent of the requests that are mirrored to it.
        baseline: Percent for the fresh copy of the old version.
        bake: How long it is watched at least, seconds.
        patience: How long it waits for evidence before it pauses, seconds.
        min_requests: How many requests the candidate needs.
        min_agreement: Least share of mirrored rows on which both versions agree; None: not asked for.
    """

    label: str
    share: int
    mirror: int = 0
    baseline: int = 0
    bake: float = 0.0
    patience: float = 0.0
    min_requests: int = 1
    min_agreement: float | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rollout is going to do.

    Attributes:
        strategy: The strategy's name.
        phases: What is watched, in order; the last one has all the traffic.
        rules: What is judged.
        hold: How long a paused rollout waits for a person, seconds.
        patience: How long a failing action is tried again, seconds.
        warm_up: Requests that a fresh revision answers before it is judged.
        fresh: Whether the baseline is a fresh copy of the old version.
        replay: Whether logged requests are sent again while traffic is thin.
        false_alarm: Chance that the rollout of an equal version is ended.
        outcomes: Where labels and business metrics come from.
    """

    strategy: str
    phases: tuple[Phase, ...]
    rules: tuple[RuleSetting, ...] = ()
    hold: float = 86400.0
    patience: float = 3600.0
    warm_up: int = 0
    fresh: bool = False
    replay: bool = False
    false_alarm: float = 0.01
    outcomes: OutcomesSection | None = field(default=None)

    @property
    def alpha(self) -> float:
        """The chance of a false alarm that each rule may use in each phase."""
        return self.false_alarm / max(len(self.rules) * len(self.phases), 1)


def plan_of(section: RolloutSection, *, alone: bool) -> Plan:
    """Returns the plan of a rollout.

    Args:
        section: The spec's section.
        alone: Whether there is no old version: the candidate then gets all the traffic at once, and a rule that it
            violates is an incident and no more, because there is nothing to go back to.
    """
    bake, patience = float(duration_seconds(section.bake)), float(duration_seconds(section.patience))
    last = max(bake, float(duration_seconds(section.keep_warm)))
    phases: list[Phase] = []
    rules = list(rule_settings(section.rules))
    if alone:
        absolute = [setting for setting in rules if setting.rule is not None and setting.rule.max is not None]
        rules = [replace(setting, action="alert", incident=True) for setting in absolute]
    if section.shadow is not None and not alone:
        shadow_bake = float(duration_seconds(section.shadow.bake))
        agreement = section.shadow.min_agreement
        phases.append(
            Phase(
                "shadow",
                0,
                mirror=section.shadow.percent,
                bake=shadow_bake,
                patience=max(patience, shadow_bake),
                min_requests=section.shadow.min_requests,
                min_agreement=agreement,
            )
        )
        if agreement is not None:
            rules.append(RuleSetting(AGREEMENT, f"agreement in the shadow >= {agreement:g}", "hold"))
    fresh = section.baseline == "fresh" and section.strategy == "canary" and not alone
    for share in section.steps if section.strategy == "canary" and not alone else [100]:
        phases.append(
            Phase(
                f"{share} %",
                share,
                baseline=min(share, 100 - share) if fresh else 0,
                bake=last if share == 100 else bake,
                patience=max(patience, last) if share == 100 else patience,
                # With nobody to lose to, it need not wait for callers.
                min_requests=0 if alone else section.min_requests,
            )
        )
    return Plan(
        strategy=section.strategy,
        phases=tuple(phases),
        rules=tuple(rules),
        hold=float(duration_seconds(section.hold)),
        patience=patience,
        warm_up=section.warm_up,
        fresh=fresh and any(phase.baseline for phase in phases),
        replay=section.replay,
        false_alarm=section.false_alarm,
        outcomes=section.outcomes,
    )
