"""How a pipeline marks its steps, and where compiling takes hold of each of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from kfp import dsl

from shipway.lineage.code import CODE_VARIABLE, code_digest
from shipway.spec import Step as StepName


@dataclass(frozen=True)
class Step:
    """What a pipeline says of one of its steps.

    Attributes:
        name: The stage, as the spec's `resources` names it.
        pure: Whether its outputs follow from its inputs and its code.
        retried: Whether trying it again, after it failed, can only help.
    """

    name: StepName
    pure: bool
    retried: bool = False


Customise = Callable[[dsl.PipelineTask, Step], None]
_customise: ContextVar[Customise | None] = ContextVar("customise", default=None)


@contextmanager
def customised(customise: Customise) -> Iterator[None]:
    """Lets a function see, and change, every step of the pipelines that are built in the block."""
    token = _customise.set(customise)
    try:
        yield
    finally:
        _customise.reset(token)


def pure(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Marks a step whose outputs follow from its inputs and its code: taken from the cache while both are the same."""
    step = Step(task.component_spec.name, pure=True)
    return _handed_over(task.set_env_variable(CODE_VARIABLE, code_digest(step.name)), step)


def effect(task: dsl.PipelineTask, *, retried: bool = False) -> dsl.PipelineTask:
    """Marks a step that looks at or changes the world outside: never taken from the cache.

    Args:
        task: The step.
        retried: Whether a platform tries it again when it fails: for a step that asks a service which may be away, and
            that finds what an earlier attempt did. Not for one whose failure is its verdict.
    """
    step = Step(task.component_spec.name, pure=False, retried=retried)
    return _handed_over(task.set_caching_options(False), step)


def _handed_over(task: dsl.PipelineTask, step: Step) -> dsl.PipelineTask:
    customise = _customise.get()
    if customise is not None:
        customise(task, step)
    return task
