"""The promotion pipeline: from a version that passed on staging to all of production's traffic."""

from kfp import dsl

from shipway import components
from shipway_pipelines.tasks import effect


@dsl.pipeline(name="promotion", description="Rolls a registered version out to production, or back.")
def promotion(
    name: str,
    rollout: str,
    endpoint: str,
    version: str = "",
    override: str = "",
    who: str = "",
    notify: str = "",
) -> None:
    """Rolls a version out, once whoever has a say has said yes; it ends live, or rolled back and failed.

    Args:
        name: The model's name in the registry.
        rollout: The spec's section rollout, as JSON.
        endpoint: Where the model is served: the settings of an endpoint, as JSON.
        version: A version's number or an alias; empty for `staging-verified`, what passed the smoke test last.
        override: Why a version that was rolled back is promoted all the same; empty to refuse such a version.
        who: Who overrides.
        notify: Whom to tell of it: the spec's section notify, as JSON.
    """
    outcome = effect(components.report(name=name, notify=notify))
    with dsl.ExitHandler(outcome, name="run"):
        chosen = effect(components.candidate(name=name, version=version, override=override, who=who), retried=True)
        release = chosen.outputs["release"]
        approved = effect(components.approval(release=release, rollout=rollout, notify=notify))
        effect(
            components.rollout(
                release=release,
                stable=chosen.outputs["stable"],
                rollout=rollout,
                endpoint=endpoint,
                notify=notify,
            )
        ).after(approved)
