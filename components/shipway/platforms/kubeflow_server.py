"""Finds or makes what a run on Kubeflow needs: experiment, pipeline, version."""

import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from shipway.errors import ShipwayError
from shipway.platforms.kubeflow_auth import Server
from shipway.platforms.kubeflow_calls import Trouble, pauses
from shipway.platforms.submission import Submission
from shipway.spec import ModelSpec

T = TypeVar("T")

_PAGE = 100
_MOST_PAGES = 1000


def ensure(server: Server, what: str, find: Callable[[], T | None], make: Callable[[], T]) -> tuple[T, bool]:
    """Finds something on the server, or makes it; however often a call fails, it is made once.

    A failed call to make it may have made it: it is looked up again before any other try.

    Args:
        server: The server.
        what: What is made, for the message, as `starting run x`.
        find: Looks it up; None when it is not there.
        make: Makes it.

    Returns:
        It, and whether this call made it.

    Raises:
        ShipwayError: The server does not answer, or refuses.
    """
    tried = False
    for pause in pauses():
        if (found := find()) is not None:
            return found, tried
        try:
            return server.caller.once(make), True
        except Trouble as trouble:
            tried = tried or trouble.ambiguous
            exists = trouble.status == 409
            if pause is None or not (trouble.passing or exists):
                # Whoever waits no longer looks once more: an answer got lost more easily than a request.
                if (exists or trouble.ambiguous) and (found := find()) is not None:
                    return found, tried
                then = "whether it was made is not known; do the same again, which finds it if it was"
                raise server.caller.explain(what, trouble, then if trouble.ambiguous else "") from trouble
            server.caller.wait(what, trouble, pause)
    raise AssertionError("the last round returns or raises")


def named(server: Server, what: str, name: str, field: str, page: Callable[..., Any]) -> list[Any]:
    """Returns what bears a name; the server filters, without regard to case, and every page is read.

    Args:
        server: The server.
        what: What is asked, for the message.
        name: The name; "" for all.
        field: The field of the answer that holds the list.
        page: Asks for a page; takes `filter`, `page_token` and `page_size`.

    Raises:
        ShipwayError: The server does not answer, refuses, or its answer makes no sense.
    """
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    wanted = json.dumps({"predicates": [predicate]}) if name else None
    found = [
        entry
        for answer in _pages(server, what, lambda token: page(filter=wanted, page_token=token, page_size=_PAGE))
        for entry in getattr(answer, field) or []
    ]
    # A list of things without names is no list of KFP's: to take it for "none of that name" would start a second run.
    if not all(isinstance(entry.display_name, str) for entry in found):
        raise server.caller.explain(what, Trouble("malformed", "a list whose entries have no name"))
    return [entry for entry in found if not name or entry.display_name == name]


def _pages(server: Server, what: str, page: Callable[[str], Any]) -> Iterator[Any]:
    token = ""
    for _ in range(_MOST_PAGES):
        answer = server.caller.ask(what, lambda at=token: page(at))  # type: ignore[misc]  # mypy infers no default
        yield answer
        token = answer.next_page_token or ""
        if not token:
            return
    raise ShipwayError(f"{server.caller.host}: {what}: its list does not end after {_MOST_PAGES} pages")


def earliest(found: list[Any], key: str) -> list[Any]:
    """Returns entries by age; those of the same second by id, so that everyone sees the same order."""
    last = dt.datetime.max.replace(tzinfo=dt.UTC)
    return sorted(found, key=lambda entry: (entry.created_at or last, getattr(entry, key) or ""))


def identified(key: str, made: Any) -> Any:
    """Returns what was made, if it has an id.

    Raises:
        Trouble: It has none, so the answer is not KFP's.
    """
    if not isinstance(getattr(made, key), str) or not getattr(made, key):
        raise Trouble("malformed", "an answer without an id")
    return made


def experiment_name(spec: ModelSpec) -> str:
    """Returns the name of the experiment that holds a model's runs and schedules."""
    return spec.kubeflow.experiment or spec.name


def find_experiment(server: Server, name: str) -> str | None:
    """Returns the id of the experiment of a name, if it is there.

    Raises:
        ShipwayError: The server does not answer, or refuses.
    """
    found = named(
        server,
        f"looking for experiment {name}",
        name,
        "experiments",
        lambda **page: server.client.list_experiments(namespace=server.namespace, **page),
    )
    return str(found[0].experiment_id) if found else None


def experiment(server: Server, name: str) -> str:
    """Returns the id of the experiment of a name; makes it if it is not there.

    Raises:
        ShipwayError: The server does not answer, or refuses.
    """
    from kfp_server_api import V2beta1Experiment

    def make() -> str:
        body = V2beta1Experiment(display_name=name, namespace=server.namespace)
        made = server.client.experiments.experiment_service_create_experiment(experiment=body)
        return str(identified("experiment_id", made).experiment_id)

    return ensure(server, f"making experiment {name}", lambda: find_experiment(server, name), make)[0]


def version(server: Server, submission: Submission) -> tuple[str, str]:
    """Returns the ids of a submission's pipeline and of its version; uploads what is not there.

    The pipeline is made empty and its version added: KFP's upload of both at once names the first version after the
    pipeline.

    Raises:
        ShipwayError: The server does not answer, or refuses.
    """
    from kfp_server_api import V2beta1Pipeline

    name = submission.pipeline

    def find_pipeline() -> str | None:
        found = named(
            server,
            f"looking for pipeline {name}",
            name,
            "pipelines",
            lambda **page: server.client.list_pipelines(namespace=server.namespace, **page),
        )
        return str(found[0].pipeline_id) if found else None

    def make_pipeline() -> str:
        body = V2beta1Pipeline(
            display_name=name,
            namespace=server.namespace,
            description=f"Made by Shipway for model {submission.spec.name}.",
        )
        made = server.client.pipelines.pipeline_service_create_pipeline(pipeline=body)
        return str(identified("pipeline_id", made).pipeline_id)

    pipeline_id = ensure(server, f"making pipeline {name}", find_pipeline, make_pipeline)[0]

    def find_version() -> str | None:
        found = named(
            server,
            f"looking for version {submission.version} of pipeline {name}",
            submission.version,
            "pipeline_versions",
            lambda **page: server.client.list_pipeline_versions(pipeline_id=pipeline_id, **page),
        )
        return str(found[0].pipeline_version_id) if found else None

    def upload() -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.yaml"
            path.write_text(submission.text)
            made = server.client.upload_pipeline_version(str(path), submission.version, pipeline_id=pipeline_id)
        return str(identified("pipeline_version_id", made).pipeline_version_id)

    what = f"uploading version {submission.version} of pipeline {name}"
    return pipeline_id, ensure(server, what, find_version, upload)[0]


def seconds_between(start: dt.datetime | None, end: dt.datetime | None) -> float:
    """Returns how long something has run or ran; KFP gives what has no end the year 1."""
    if start is None or start.year < 1971:
        return 0.0
    until = end.timestamp() if end is not None and end >= start else time.time()
    return max(0.0, until - start.timestamp())
