"""The rollback pipeline: production's traffic back to the version before."""

from kfp import dsl

from shipway import components
from shipway_pipelines.tasks import effect


@dsl.pipeline(name="rollback", description="Puts the version before back into production.")
def rollback(name: str, endpoint: str, reason: str = "", to: str = "", notify: str = "") -> None:
    """Takes production's traffic back; a rollout that is under way ends with it.

    Args:
        name: The model's name in the registry.
        endpoint: Where the model is served: the settings of an endpoint, as JSON.
        reason: Why, for the record.
        to: The version to go back to, by number or alias; empty for the one before.
        notify: Whom to tell of it: the spec's section notify, as JSON.
    """
    outcome = effect(components.report(name=name, notify=notify))
    with dsl.ExitHandler(outcome, name="run"):
        effect(
            components.rollback(name=name, endpoint=endpoint, reason=reason, to=to, notify=notify),
            retried=True,
        )
