"""Schedules on Vertex AI.

Vertex AI gives a schedule its id itself, so that a schedule is found again by its name and the model's label. Creating
one is therefore never tried again blindly: after a lost answer the list tells whether it is there.
"""

from __future__ import annotations

import datetime as dt
import re
import time
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from shipway.endpoints import vertex_client
from shipway.endpoints.vertex_client import Vertex, passes_by
from shipway.errors import InputError, ShipwayError
from shipway.lineage.digests import digest_json
from shipway.platforms.cron import kubeflow_cron
from shipway.platforms.schedules import ScheduleInfo
from shipway.platforms.vertex_job import MODEL_LABEL, check, make_job

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.types import Schedule

    from shipway.platforms.submission import Submission
    from shipway.spec import ModelSpec

# What a schedule was made from, to tell the same one from a changed one; Vertex AI may write its parts differently.
CONTENT_LABEL = "shipway-schedule"
CATCH_UP_LABEL = "shipway-catch-up"

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9 ._-]{0,126}[A-Za-z0-9])?")
_UPDATED = ["cron", "max_concurrent_run_count", "max_concurrent_active_run_count", "create_pipeline_job_request"]


def create_schedule(
    submission: Submission,
    *,
    name: str,
    cron: str,
    timezone: str = "UTC",
    max_concurrency: int = 1,
    catch_up: bool = False,
    start: dt.datetime | None = None,
    end: dt.datetime | None = None,
) -> ScheduleInfo:
    """Makes a schedule, or brings the one of that name to what is asked; the same again changes nothing.

    Args:
        submission: What each run is; prepared as scheduled.
        name: The schedule's name, unique among the model's.
        cron: Five fields, or a word as `@daily`.
        timezone: IANA name of the zone in which `cron` is read.
        max_concurrency: How many runs may be started at once.
        catch_up: Whether the runs missed while the schedule was paused are made up for when it is resumed.
        start: When the first run may start; default: now.
        end: After which none starts; default: never.

    Raises:
        InputError: A setting is malformed, or the change is one that Vertex AI cannot make.
        ShipwayError: Vertex AI refused, or did not answer.
    """
    from google.api_core.exceptions import GoogleAPICallError

    vertex = Vertex(submission.spec.vertex)
    check(submission)
    wanted = _message(submission, name, cron, timezone, max_concurrency, catch_up, start, end)
    wanted.create_pipeline_job_request.parent = vertex.parent
    found = _named(vertex, submission.spec, name)
    if found is not None:
        return _info(vertex, _update(vertex, found, wanted))
    what = f"making schedule {name}"
    try:
        made = vertex.once(vertex.schedules.create_schedule, {"parent": vertex.parent, "schedule": wanted})
    except GoogleAPICallError as error:
        if not passes_by(error):
            raise vertex.refusal(what, error) from error
        made = _after_lost_answer(vertex, submission.spec, name, vertex.refusal(what, error))
    return _info(vertex, made)


def list_schedules(spec: ModelSpec) -> list[ScheduleInfo]:
    """Returns the model's schedules, in the order of their names.

    Raises:
        InputError: Project or location are missing or malformed.
        ShipwayError: Vertex AI refused, or did not answer.
    """
    vertex = Vertex(spec.vertex)
    return sorted((_info(vertex, found) for found in _all(vertex, spec)), key=lambda info: info.name)


def pause_schedule(spec: ModelSpec, name: str) -> ScheduleInfo:
    """Keeps a schedule from starting runs until it is resumed; those that go on are left alone.

    Raises:
        InputError: There is no schedule of that name.
        ShipwayError: It has come to its end, or Vertex AI refused, or did not answer.
    """
    return _switch(spec, name, "PAUSED")


def resume_schedule(spec: ModelSpec, name: str) -> ScheduleInfo:
    """Lets a paused schedule start runs again; with catch-up it makes up for those that it missed.

    Raises:
        InputError: There is no schedule of that name.
        ShipwayError: It has come to its end, or Vertex AI refused, or did not answer.
    """
    return _switch(spec, name, "ACTIVE")


def delete_schedule(spec: ModelSpec, name: str) -> None:
    """Deletes the model's schedule of that name (all of them, should there be several); its runs stay.

    Raises:
        InputError: There is no schedule of that name.
        ShipwayError: Vertex AI refused, or did not answer.
    """
    from google.api_core.exceptions import Conflict, NotFound

    vertex = Vertex(spec.vertex)
    what = f"deleting schedule {name}"
    for found in _existing(vertex, spec, name):
        try:
            operation = vertex.ask(what, vertex.schedules.delete_schedule, {"name": found.name})
        except NotFound:
            # An earlier try, or someone else, was first.
            continue
        except Conflict as error:
            raise vertex.refusal(what, error) from error
        vertex.finished(what, operation)


def _message(
    submission: Submission,
    name: str,
    cron: str,
    timezone: str,
    max_concurrency: int,
    catch_up: bool,
    start: dt.datetime | None,
    end: dt.datetime | None,
) -> Schedule:
    """Returns the schedule asked for; the project is not in it yet."""
    from google.cloud.aiplatform_v1.types import Schedule

    if not _NAME.fullmatch(name):
        raise InputError(f"schedule name: expected at most 128 letters, digits, spaces and . _ -, found {name!r}")
    if max_concurrency < 1:
        raise InputError(f"max concurrency: expected 1 or more, found {max_concurrency}")
    if start and end and start >= end:
        raise InputError(f"schedule {name}: expected its end after its start, found {start} to {end}")
    job = make_job(submission, None, labels={CATCH_UP_LABEL: "true" if catch_up else "false"})
    job.display_name = name
    wanted = Schedule(
        display_name=name,
        cron=f"TZ={_zone(timezone)} {_five_fields(cron)}",
        # The first bounds the runs that are being started, the second those that go on.
        max_concurrent_run_count=max_concurrency,
        max_concurrent_active_run_count=max_concurrency,
        create_pipeline_job_request={"pipeline_job": job},
        start_time=_aware(start),
        end_time=_aware(end),
    )
    content = digest_json(Schedule.to_dict(wanted)).removeprefix("sha256:")[:16]
    wanted.create_pipeline_job_request.pipeline_job.labels[CONTENT_LABEL] = content
    return wanted


def _five_fields(cron: str) -> str:
    """Returns a cron expression as Vertex AI reads it: without seconds, and with * for the ? of some programs."""
    seconds, *fields = kubeflow_cron(cron).split()
    if seconds != "0":
        raise InputError(f"cron {cron!r}: Vertex AI knows no seconds; expected five fields as 0 3 * * *")
    return " ".join(fields).replace("?", "*")


def _zone(timezone: str) -> str:
    if timezone == "UTC":
        return timezone
    try:
        return ZoneInfo(timezone).key
    except (KeyError, OSError, ValueError) as error:
        raise InputError(f"time zone {timezone!r}: no such zone; expected an IANA name as Europe/Paris") from error


def _aware(moment: dt.datetime | None) -> dt.datetime | None:
    return moment.replace(tzinfo=dt.UTC) if moment is not None and moment.tzinfo is None else moment


def _labels(schedule: Schedule) -> dict[str, str]:
    return dict(schedule.create_pipeline_job_request.pipeline_job.labels)


def _all(vertex: Vertex, spec: ModelSpec, filter_: str = "") -> list[Schedule]:
    """Returns the model's schedules; every page of the list is asked for."""
    from google.api_core.exceptions import Conflict, NotFound

    found: list[Schedule] = []
    token = ""
    while True:
        request = {"parent": vertex.parent, "filter": filter_, "page_size": 100, "page_token": token}
        try:
            page = vertex.ask("listing schedules", vertex.schedules.list_schedules, request)
        except (NotFound, Conflict) as error:
            raise vertex.refusal("listing schedules", error) from error
        answer = next(iter(page.pages))
        found += [one for one in answer.schedules if _labels(one).get(MODEL_LABEL) == spec.name]
        token = answer.next_page_token
        if not token:
            return found


def _matching(vertex: Vertex, spec: ModelSpec, name: str) -> list[Schedule]:
    if not _NAME.fullmatch(name):
        raise InputError(f"schedule name: expected at most 128 letters, digits, spaces and . _ -, found {name!r}")
    return [one for one in _all(vertex, spec, f'display_name="{name}"') if one.display_name == name]


def _named(vertex: Vertex, spec: ModelSpec, name: str) -> Schedule | None:
    found = _matching(vertex, spec, name)
    return _single(spec, name, found) if found else None


def _single(spec: ModelSpec, name: str, found: list[Schedule]) -> Schedule:
    if len(found) > 1:
        raise ShipwayError(
            f"schedule {name}: Vertex AI has {len(found)} of that name for model {spec.name} "
            f"({', '.join(_id(one) for one in found)}); delete all but one in the console, or all of them by "
            "`shipway schedule delete`"
        )
    return found[0]


def _existing(vertex: Vertex, spec: ModelSpec, name: str) -> list[Schedule]:
    found = _matching(vertex, spec, name)
    if not found:
        names = sorted(one.display_name for one in _all(vertex, spec))
        raise InputError(
            f"schedule {name!r}: model {spec.name} has none of that name in {vertex.project}, {vertex.location}; "
            f"there {'is' if len(names) == 1 else 'are'} {', '.join(names) or 'none'}"
        )
    return found


def _after_lost_answer(vertex: Vertex, spec: ModelSpec, name: str, refusal: ShipwayError) -> Schedule:
    """Looks for a schedule that may or may not have been made; a second one is never asked for."""
    for pause in (0.0, *vertex_client.PAUSES):
        time.sleep(pause)
        found = _named(vertex, spec, name)
        if found is not None:
            return found
    raise ShipwayError(f"{refusal}; the list does not show the schedule: the same command again makes it, or finds it")


def _update(vertex: Vertex, found: Schedule, wanted: Schedule) -> Schedule:
    """Changes a schedule in place where it is not as wanted."""
    from google.api_core.exceptions import BadRequest, Conflict, NotFound

    name = found.display_name
    same = _labels(found).get(CONTENT_LABEL) == _labels(wanted)[CONTENT_LABEL]
    # The console can change these without touching the label.
    if same and found.cron == wanted.cron and found.max_concurrent_run_count == wanted.max_concurrent_run_count:
        return found
    again = "delete it (`shipway schedule delete`) and create it anew"
    if found.state.name == "COMPLETED":
        raise InputError(f"schedule {name}: it has come to its end and cannot be changed; {again}")
    if found.end_time and not wanted.end_time:
        raise InputError(f"schedule {name}: Vertex AI cannot take away its end, {found.end_time.isoformat()}; {again}")
    wanted.name = found.name
    paths = [*_UPDATED, *(field for field in ("start_time", "end_time") if getattr(wanted, field))]
    request: dict[str, Any] = {"schedule": wanted, "update_mask": {"paths": paths}}
    what = f"updating schedule {name}"
    try:
        return vertex.ask(what, vertex.schedules.update_schedule, request)
    except (NotFound, Conflict) as error:
        raise vertex.refusal(what, error) from error
    except InputError as error:
        if isinstance(error.__cause__, BadRequest):
            raise InputError(f"{error}; {again}") from error
        raise


def _switch(spec: ModelSpec, name: str, state: str) -> ScheduleInfo:
    """Pauses or resumes a schedule; one that is so already is left alone."""
    from google.api_core.exceptions import Conflict, NotFound

    vertex = Vertex(spec.vertex)
    found = _single(spec, name, _existing(vertex, spec, name))
    if found.state.name == "COMPLETED":
        raise ShipwayError(f"schedule {name}: it has come to its end, {found.end_time}, and starts nothing any more")
    if found.state.name != state:
        request: dict[str, Any] = {"name": found.name}
        method: Any = vertex.schedules.pause_schedule
        if state == "ACTIVE":
            method = vertex.schedules.resume_schedule
            request["catch_up"] = _labels(found).get(CATCH_UP_LABEL) == "true"
        what = f"{'resuming' if state == 'ACTIVE' else 'pausing'} schedule {name}"
        try:
            vertex.ask(what, method, request)
            found = vertex.ask(what, vertex.schedules.get_schedule, {"name": found.name})
        except (NotFound, Conflict) as error:
            raise vertex.refusal(what, error) from error
    return _info(vertex, found)


def _id(schedule: Schedule) -> str:
    return schedule.name.rpartition("/")[2]


def _info(vertex: Vertex, schedule: Schedule) -> ScheduleInfo:
    zone, fields = re.fullmatch(r"(?:(?:CRON_)?TZ=(\S+)\s+)?(.*)", schedule.cron).groups()  # type: ignore[union-attr]
    active = schedule.state.name == "ACTIVE"
    return ScheduleInfo(
        name=schedule.display_name,
        cron=fields,
        timezone=zone or "UTC",
        enabled=active,
        next_run=schedule.next_run_time.isoformat() if active and schedule.next_run_time else "",
        link=vertex.link(f"pipelines/schedules/{_id(schedule)}"),
        id=_id(schedule),
    )
