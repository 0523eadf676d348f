"""Sends an alert to the people behind Apprise URLs: Slack, Teams, PagerDuty, mail, and a hundred more."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote

from shipway.notify.alerts import Alert
from shipway.notify.delivery import Deadline, DeliveryError, Receiver, deliver, persist
from shipway.notify.secrets import secret

if TYPE_CHECKING:
    from apprise import AppriseAsset, NotifyBase

_TYPES = {"info": "info", "warning": "warning", "incident": "failure"}
_SHOWN = ("version", "decision", "drifted", "step", "run")
_LONGEST_FACT = 300
_MARGIN = 0.5
# What parts two URLs: a comma within one may be its own.
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][\w+.-]*://)")
# How Apprise's services log a refusal that another try would not change.
_REFUSED = re.compile(r"error[ =]4(?!08|29)\d\d\b")


def send_messages(alert: Alert, variable: str, deadline: Deadline) -> str:
    """Sends an alert to each Apprise URL of an environment variable, side by side; to nobody where it is not set.

    Args:
        alert: What to tell them.
        variable: Its name. The URLs are parted by blanks, line breaks or commas.
        deadline: When it is too late.

    Returns:
        "", as each service has its own line.

    Raises:
        DeliveryError: The variable names a secret that cannot be read.
    """
    given = secret(variable, deadline)
    urls = _BETWEEN.split(given) if given else []
    receivers = [_receiver(alert, url, f"URL {place} of {variable}") for place, url in enumerate(urls, 1)]
    # Done a little before whoever waits for this, so that each of them has its line.
    deliver(receivers, Deadline(deadline.left() - _MARGIN))
    return ""


def message(alert: Alert) -> tuple[str, str]:
    """Returns an alert's title and text for people."""
    facts = alert.plain()["facts"]
    lines = [f"{name}: {_shown(facts[name])}" for name in _SHOWN if facts.get(name)]
    return f"[{alert.severity}] {alert.name}: {alert.kind.replace('_', ' ')}", "\n".join([alert.text, *lines])


def _receiver(alert: Alert, url: str, name: str) -> Receiver:
    def send(deadline: Deadline) -> str:
        title, text = message(alert)
        service, notify = _service(url, title, text, _TYPES[alert.severity])
        persist(notify, deadline)
        return f"has told {service}"

    return Receiver(name, send)


def _service(url: str, title: str, text: str, kind: str) -> tuple[str, Callable[[], None]]:
    """Returns the name of the service behind a URL, and what sends one message to it."""
    from apprise import Apprise, AppriseAsset, NotifyFormat

    # Nothing is kept on disk, and this very thread calls the service: one of Apprise's own would keep a process from
    # ending while a receiver hangs.
    asset = AppriseAsset(
        app_id="Shipway", app_desc="Shipway", async_mode=False, service_timeout=0, storage_mode="memory"
    )
    with _Overheard(url) as overheard:
        plugin = _plugin(url, asset)
    if plugin is None:
        raise DeliveryError(f"it is no Apprise URL{overheard.words()}")
    name = str(plugin.service_name or "the service")
    sender = Apprise(asset=asset)
    sender.add(plugin)

    def notify() -> None:
        with _Overheard(url) as overheard:
            told = sender.notify(body=text, title=title, notify_type=kind, body_format=NotifyFormat.TEXT)
        if not told:
            words = overheard.words()
            raise DeliveryError(f"{name} did not take the message{words}", passes=not _REFUSED.search(words))

    return name, notify


def _plugin(url: str, asset: AppriseAsset) -> NotifyBase | None:
    from apprise import Apprise

    return Apprise.instantiate(url, asset=asset, suppress_exceptions=True)


def _shown(value: object) -> str:
    words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return words if len(words) <= _LONGEST_FACT else f"{words[:_LONGEST_FACT]} ..."


class _Overheard(logging.Handler):
    """Keeps what Apprise logs on this thread while a block lasts, from everybody else, and without the URL's secrets.

    Args:
        url: The URL, whose parts are blotted out.
    """

    def __init__(self, url: str) -> None:
        super().__init__(logging.WARNING)
        self._url, self._thread = url, threading.get_ident()
        self._lines: list[str] = []

    def __enter__(self) -> _Overheard:
        logger = logging.getLogger("apprise")
        # What it says may repeat parts of a URL, so that none of it reaches the log of the step.
        logger.propagate = False
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("apprise").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line of this thread."""
        if threading.get_ident() == self._thread:
            self._lines.append(record.getMessage())

    def words(self) -> str:
        """Returns what was heard last, to end a message; "" for nothing."""
        said = " ".join(self._lines[-1].split()) if self._lines else ""
        parts = {part for part in _parts(self._url) if len(part) > 3}
        for part in sorted(parts, key=len, reverse=True):
            said = said.replace(part, "***")
        # Only then, as a secret that is cut in two is not found.
        return f": {said[:_LONGEST_FACT]}" if said else ""


def _parts(url: str) -> set[str]:
    """Returns what a URL holds after its scheme, piece by piece: any of it may be a secret."""
    rest = url.partition("://")[2]
    pieces = {rest, *re.split("[/?&=@:,#]", rest)}
    return pieces | {unquote(piece) for piece in pieces} | {url}
