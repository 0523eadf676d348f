"""Schedules on Kubeflow: KFP's recurring runs, one a name in the model's experiment."""

import contextlib
import datetime as dt
from collections.abc import Callable
from typing import Any

from shipway.errors import InputError, ShipwayError
from shipway.lineage.digests import digest_json
from shipway.platforms.cron import check_utc, kubeflow_cron, next_fire
from shipway.platforms.kubeflow_auth import Server, connect
from shipway.platforms.kubeflow_calls import Trouble
from shipway.platforms.kubeflow_server import (
    earliest,
    ensure,
    experiment,
    experiment_name,
    find_experiment,
    identified,
    named,
    version,
)
from shipway.platforms.schedules import ScheduleInfo
from shipway.platforms.submission import Submission
from shipway.spec import ModelSpec

# KFP changes no recurring run but to switch it on and off: the digest of what was asked for tells whether one is new.
_MARK = "Made by Shipway from "


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
    """Makes a schedule; the same again changes nothing, a changed one takes the old one's place.

    The new one is made switched off, the old one is switched off, the new one on, and the old one deleted: at no time
    are two active, and whatever is interrupted is finished by doing it again.

    Args:
        submission: What to run, prepared with `scheduled=True`.
        name: The schedule's name, unique among the model's.
        cron: When, as five fields or six with seconds first; in UTC.
        timezone: UTC; KFP knows no other.
        max_concurrency: How many of its runs may go on at once, 1 to 10.
        catch_up: Whether runs that were missed while it was paused are made up for.
        start: When it begins; default: now. A moment without a time zone is in UTC.
        end: When it ends; default: never.

    Raises:
        InputError: A setting is wrong.
        ShipwayError: The server does not answer, or refuses.
    """
    check_utc(timezone)
    fields = kubeflow_cron(cron)
    if not 1 <= max_concurrency <= 10:
        raise InputError(f"max_concurrency: expected 1 to 10, found {max_concurrency}")
    begins, ends = _stamp(start), _stamp(end)
    if begins and ends and begins >= ends:
        raise InputError(f"schedule {name}: it ends ({ends}) before it starts ({begins})")
    server = connect(submission.spec.kubeflow)
    held_by = experiment(server, experiment_name(submission.spec))
    pipeline_id, version_id = version(server, submission)
    asked = {
        "cron_expression": fields,
        "start_time": begins,
        "end_time": ends,
        "max_concurrency": max_concurrency,
        "no_catchup": not catch_up,
        "params": dict(submission.arguments),
        "pipeline_id": pipeline_id,
        "version_id": version_id,
        "service_account": submission.spec.kubeflow.service_account,
    }
    mark = _MARK + digest_json(asked)

    def find() -> Any:
        return next((entry for entry in _schedules(server, held_by, name) if entry.description == mark), None)

    def make() -> Any:
        others = [entry for entry in _schedules(server, held_by, name) if entry.description != mark]
        return identified(
            "recurring_run_id",
            server.client.create_recurring_run(
                experiment_id=held_by, job_name=name, description=mark, enabled=not others, **asked
            ),
        )

    ensure(server, f"making schedule {name}", find, make)
    return _settle(server, held_by, name, mark)


def list_schedules(spec: ModelSpec) -> list[ScheduleInfo]:
    """Returns a model's schedules, by name.

    Raises:
        ShipwayError: The server does not answer, or refuses.
    """
    server = connect(spec.kubeflow)
    held_by = find_experiment(server, experiment_name(spec))
    found = _schedules(server, held_by, "") if held_by else []
    return sorted((_info(server, entry) for entry in found), key=lambda info: info.name)


def pause_schedule(spec: ModelSpec, name: str) -> ScheduleInfo:
    """Switches a schedule off; runs that go on are left alone.

    Raises:
        InputError: There is none of that name.
        ShipwayError: The server does not answer, or refuses.
    """
    server, held_by, found = _known(spec, name)
    for entry in found:
        _switch(server, entry, on=False)
    return _info(server, _schedules(server, held_by, name)[0])


def resume_schedule(spec: ModelSpec, name: str) -> ScheduleInfo:
    """Switches a schedule on.

    Raises:
        InputError: There is none of that name, or its replacement was interrupted.
        ShipwayError: The server does not answer, or refuses.
    """
    server, held_by, found = _known(spec, name)
    if len(found) > 1:
        raise InputError(
            f"schedule {name}: there are {len(found)}, since its replacement was interrupted; create it again, which "
            "finishes that"
        )
    _switch(server, found[0], on=True)
    return _info(server, _schedules(server, held_by, name)[0])


def delete_schedule(spec: ModelSpec, name: str) -> None:
    """Deletes a schedule; its runs stay.

    Raises:
        InputError: There is none of that name.
        ShipwayError: The server does not answer, or refuses.
    """
    server, _, found = _known(spec, name)
    for entry in found:
        _delete(server, entry)


def _settle(server: Server, held_by: str, name: str, mark: str) -> ScheduleInfo:
    """Finishes a replacement: leaves one schedule of a name, the earliest with that mark.

    Others of the name mean that a replacement goes on, so that the one to keep is switched on; alone it keeps its
    state, which is then the user's.
    """
    found = _schedules(server, held_by, name)
    kept, *_ = [entry for entry in found if entry.description == mark] or [None]
    if kept is None:
        raise ShipwayError(
            f"{server.caller.host}: schedule {name} was changed by another while it was made; look at it, and create "
            "it again if need be"
        )
    others = [entry for entry in found if entry.recurring_run_id != kept.recurring_run_id]
    for entry in others:
        _switch(server, entry, on=False)
    if others:
        _switch(server, kept, on=True)
    for entry in others:
        _delete(server, entry)
    what = f"looking at schedule {name}"
    return _info(server, server.caller.ask(what, lambda: server.client.get_recurring_run(kept.recurring_run_id)))


def _known(spec: ModelSpec, name: str) -> tuple[Server, str, list[Any]]:
    server = connect(spec.kubeflow)
    held_by = find_experiment(server, experiment_name(spec))
    found = _schedules(server, held_by, name) if held_by else []
    if held_by is None or not found:
        known = [entry.display_name for entry in _schedules(server, held_by, "")] if held_by else []
        raise InputError(
            f"{server.caller.host}: model {spec.name} has no schedule {name!r}; it has {', '.join(known) or 'none'}"
        )
    return server, held_by, found


def _schedules(server: Server, held_by: str, name: str) -> list[Any]:
    """Returns the schedules of a name, or all; the earliest first."""

    def page(**options: Any) -> Any:
        return server.client.list_recurring_runs(experiment_id=held_by, namespace=server.namespace, **options)

    found = named(server, f"looking for schedule {name}" if name else "listing schedules", name, "recurring_runs", page)
    return earliest(found, "recurring_run_id")


def _switch(server: Server, entry: Any, *, on: bool) -> None:
    if _enabled(entry) == on:
        return
    client: Any = server.client
    change: Callable[[str], Any] = client.enable_recurring_run if on else client.disable_recurring_run
    what = f"switching schedule {entry.display_name} {'on' if on else 'off'}"
    server.caller.ask(what, lambda: change(entry.recurring_run_id))


def _delete(server: Server, entry: Any) -> None:
    """Deletes a recurring run; one that is gone already is what was wanted."""
    try:
        server.caller.ask(
            f"deleting schedule {entry.display_name}",
            lambda: server.client.delete_recurring_run(entry.recurring_run_id),
        )
    except ShipwayError as error:
        if not (isinstance(error.__cause__, Trouble) and error.__cause__.status == 404):
            raise


def _enabled(entry: Any) -> bool:
    return str(entry.status or entry.mode) in ("ENABLED", "ENABLE")


def _info(server: Server, entry: Any) -> ScheduleInfo:
    schedule = entry.trigger.cron_schedule if entry.trigger else None
    cron = (schedule.cron if schedule else None) or ""
    fires = ""
    # Others make schedules as well, with what only KFP can read.
    if schedule and len(cron.split()) == 6 and _enabled(entry):
        after = max(dt.datetime.now(dt.UTC), schedule.start_time or dt.datetime.min.replace(tzinfo=dt.UTC))
        with contextlib.suppress(InputError):
            moment = next_fire(cron, after)
            fires = moment.isoformat() if not schedule.end_time or moment <= schedule.end_time else ""
    link = f"{server.link}/#/recurringrun/details/{entry.recurring_run_id}"
    return ScheduleInfo(entry.display_name, cron, "UTC", _enabled(entry), fires, link, entry.recurring_run_id)


def _stamp(moment: dt.datetime | None) -> str | None:
    if moment is None:
        return None
    known = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    return known.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
