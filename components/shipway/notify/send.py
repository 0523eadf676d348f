"""Tells everybody whom the spec's section `notify` names of an alert; never fails what tells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from shipway.notify.alerts import Alert, this_run, write_alert
from shipway.notify.delivery import Deadline, Receiver, deliver
from shipway.notify.events import send_event
from shipway.notify.issues import tell_issue
from shipway.notify.messages import send_messages
from shipway.spec import load_section
from shipway.spec.watch import NotifySection


def tell(alert: Alert, notify: str = "") -> None:
    """Writes an alert down, and sends it to whoever should hear of it.

    All receivers are told at the same time, for 20 s in all. One that cannot be told is named in a line on standard
    error, without any secret; nothing is raised for it.

    Args:
        alert: What happened.
        notify: The spec's section notify, as the pipelines' JSON parameter; "" to write it down alone.
    """
    alert = replace(alert, facts=this_run(alert.facts))
    write_alert(alert)
    if notify:
        deliver(_receivers(alert, load_section(NotifySection, notify)), Deadline())


def teller(notify: str) -> Callable[[Alert], None]:
    """Returns what tells of alerts in accordance with a section notify.

    Args:
        notify: As `tell` takes it.
    """
    return partial(tell, notify=notify)


def _receivers(alert: Alert, section: NotifySection) -> list[Receiver]:
    found: list[Receiver] = []
    if alert.cause in section.on:
        found.append(Receiver("the URLs", lambda deadline: send_messages(alert, section.urls, deadline)))
    github, events = section.github, section.events
    if github is not None and alert.cause in github.on:
        found.append(Receiver("GitHub", lambda deadline: tell_issue(alert, github, deadline)))
    if events is not None:
        found.append(Receiver("the event sink", lambda deadline: send_event(alert, events, deadline)))
    return found
