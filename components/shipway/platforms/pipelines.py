"""The pipelines that a spec can be compiled to, and the parameters that each gets of it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from shipway.errors import InputError, SpecError
from shipway.model.promotion import account
from shipway.platforms.arguments import (
    Argument,
    inference_arguments,
    monitoring_arguments,
    promotion_arguments,
    rollback_arguments,
    training_arguments,
)
from shipway.platforms.cron import kubeflow_cron
from shipway.spec import EndpointSettings, ModelSpec, Step, VertexSection, dump_endpoint
from shipway.spec.rollout import EndpointKind, rollout_problems

Target = Literal["local", "kubeflow", "vertex"]
# Where a kind of endpoint can be reached from.
_REACHED_FROM: Mapping[str, Sequence[str]] = {
    "local": ("local",),
    "kserve": ("kubeflow",),
    "vertex": ("kubeflow", "vertex"),
}


@dataclass(frozen=True)
class Pipeline:
    """A pipeline of `shipway_pipelines`.

    Attributes:
        name: Its name.
        sections: Makes the parameters that hold a spec's sections.
        goal: The step that has succeeded when the pipeline has done what it is for; on a cluster without endpoint
            the training pipeline ends before it.
        given: Parameters that a person may give, and what each means.
        reads_data: Whether it takes rows in, so that a run depends on what their source holds.
        source: The URI of these rows where it is not what `data` names, else "".
        endpoint: Whether it can do nothing without an endpoint (`needed`), leaves steps out without one (`wanted`), or
            has nothing to do with one (`none`).
        instead: The parameter that makes up for a missing endpoint, or "".
        repeatable: Whether the same submission again means another run, rather than the one there is.
        queued: Whether it waits, on this machine, until no other run of it uses the state folder.
        cut_short: Whether the spec's `kubeflow.deadline` may end it.
        section: The section of the spec that is its own and says when it is scheduled, or "".
    """

    name: str
    sections: Callable[[ModelSpec], dict[str, Argument]]
    goal: Step
    given: Mapping[str, str] = field(default_factory=dict)
    reads_data: bool = False
    source: Callable[[ModelSpec], str] = lambda _: ""
    endpoint: Literal["needed", "wanted", "none"] = "needed"
    instead: str = ""
    repeatable: bool = False
    queued: bool = True
    cut_short: bool = False
    section: str = ""

    @property
    def function(self) -> str:
        """Where it is, as MODULE:NAME."""
        return f"shipway_pipelines.{self.name}:{self.name}"

    def schedule(self, spec: ModelSpec) -> str:
        """Returns the cron that the spec has for it, or "".

        Raises:
            SpecError: It is no cron, or never comes true.
        """
        if not self.section:
            return ""
        cron: str = getattr(spec, self.section).schedule
        try:
            kubeflow_cron(cron)
        except InputError as error:
            raise SpecError(f"{self.section}.schedule: {error}") from error
        return cron


PIPELINES = {
    entry.name: entry
    for entry in (
        Pipeline("training", training_arguments, goal="smoke", reads_data=True, endpoint="wanted", cut_short=True),
        Pipeline(
            "promotion",
            promotion_arguments,
            goal="rollout",
            given={
                "version": "the registered version, by number or alias; default: staging-verified",
                "override": "why a version that was rolled back may be promoted all the same",
            },
        ),
        Pipeline(
            "rollback",
            rollback_arguments,
            goal="rollback",
            given={
                "reason": "why, for the record",
                "to": "the version to go back to, by number or alias; default: the one before",
            },
            repeatable=True,
            queued=False,
        ),
        Pipeline(
            "inference",
            inference_arguments,
            goal="gather",
            given={"version": "the version that scores, by number or alias; default: inference.version"},
            reads_data=True,
            source=lambda spec: spec.inference.source or "",
            endpoint="none",
            repeatable=True,
            cut_short=True,
            section="inference",
        ),
        Pipeline(
            "monitoring",
            monitoring_arguments,
            goal="monitor",
            given={
                "version": "the version that is watched, by number or alias; default: champion",
                "predictions": "batch predictions to look at, a folder or URI; default: monitor.predictions, or the "
                "server's log",
                "until": "end of the window, as 2026-01-31T12:00; default: now",
            },
            instead="predictions",
            repeatable=True,
            cut_short=True,
            section="monitor",
        ),
    )
}


def find_pipeline(name: str) -> Pipeline:
    """Returns a pipeline by name.

    Raises:
        InputError: There is none of that name.
    """
    if name not in PIPELINES:
        raise InputError(f"--pipeline: expected {', '.join(PIPELINES)}, found {name!r}{_meant(name, PIPELINES)}")
    return PIPELINES[name]


def given_parameters(pipeline: Pipeline, settings: Sequence[str]) -> dict[str, str]:
    """Reads what a person gives a pipeline, as `version=3`; an override gets the account that gives it.

    Raises:
        InputError: An entry has no `=`, or the pipeline has no such parameter for a person to give.
    """
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or key not in pipeline.given:
            known = "; ".join(f"{name}: {text}" for name, text in pipeline.given.items())
            hint = f"it takes {known}" if known else "it takes none"
            raise InputError(
                f"--parameter {setting}: expected NAME=VALUE of pipeline {pipeline.name}; {hint}"
                f"{_meant(key, pipeline.given)}"
            )
        if key in found:
            raise InputError(f"--parameter {key}: given twice")
        found[key] = value
    if "override" in found:
        found["who"] = account()
    return found


def parameters(pipeline: Pipeline, spec: ModelSpec, target: Target, server_image: str) -> dict[str, Argument]:
    """Returns what a spec gives a pipeline: its sections, and the settings of the endpoint where it has one.

    Args:
        pipeline: The pipeline.
        spec: The spec.
        target: The platform that runs it.
        server_image: Full name of the model server's image.

    Raises:
        InputError: A file that the spec names does not exist.
        SpecError: The steps cannot reach the endpoint that the spec names, or it cannot do what `rollout` asks.
    """
    pipeline.schedule(spec)
    sections = pipeline.sections(spec)
    if pipeline.endpoint == "none":
        return sections
    endpoint = endpoint_parameter(spec, target, server_image)
    if endpoint and "rollout" in sections:
        kind: EndpointKind | None = "local" if target == "local" else spec.endpoint.kind
        if problems := rollout_problems(spec.endpoint.model_copy(update={"kind": kind}), spec.rollout):
            raise SpecError("\n".join(problems))
    return {**sections, "endpoint": endpoint}


def endpoint_parameter(spec: ModelSpec, target: Target, server_image: str) -> str:
    """Returns the parameter `endpoint`: JSON of `EndpointSettings`, or "" for nowhere.

    A run on this machine always has an endpoint on this machine, whatever the spec says of the clusters.

    Raises:
        SpecError: The steps cannot reach the endpoint that the spec names.
    """
    kind = "local" if target == "local" else spec.endpoint.kind
    if kind is None:
        return ""
    if target not in _REACHED_FROM[kind]:
        right = " or ".join(name for name, places in _REACHED_FROM.items() if target in places)
        why = "is a server on the machine that runs the steps" if kind == "local" else "is reached from its own cluster"
        raise SpecError(
            f"endpoint.kind: {kind} {why}, which a run on {target} is not; expected {right}, or none to deploy nowhere"
        )
    section = spec.endpoint.model_copy(update={"kind": kind})
    if kind == "local":
        return dump_endpoint(EndpointSettings(endpoint=section))
    vertex = spec.vertex if kind == "vertex" else VertexSection()
    return dump_endpoint(EndpointSettings(endpoint=section, vertex=vertex, image=server_image))


def check_endpoint(pipeline: Pipeline, arguments: Mapping[str, Argument]) -> None:
    """Refuses to run a pipeline nowhere that needs an endpoint.

    Raises:
        SpecError: It needs one, and the spec names none.
    """
    made_up_for = pipeline.instead and arguments.get(pipeline.instead)
    if pipeline.endpoint == "needed" and not arguments["endpoint"] and not made_up_for:
        instead = f", or batch predictions (monitor.{pipeline.instead})" if pipeline.instead else ""
        raise SpecError(
            f"endpoint.kind: pipeline {pipeline.name} needs an endpoint, and the spec names none for a cluster; "
            f"expected kserve or vertex{instead}"
        )


def endpoint_notes(name: str, spec: ModelSpec) -> list[str]:
    """Returns a line for what a pipeline leaves out on a cluster because the spec names no endpoint there."""
    pipeline = PIPELINES[name]
    if spec.endpoint.kind is not None or pipeline.endpoint == "none" or (pipeline.instead and spec.monitor.predictions):
        return []
    if pipeline.endpoint == "needed":
        return [f"endpoint.kind: none, so that pipeline {name} runs only with its parameter `endpoint` filled in"]
    return ["endpoint.kind: none: deploy and smoke are left out, the run ends with the registered model"]


def _meant(word: str, known: Mapping[str, object]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
