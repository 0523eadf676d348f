"""Why a revision on a cluster does not answer, from its pods."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from shipway.endpoints.kserve_objects import ATTEMPT_ANNOTATION, REVISION_LABEL, Object

_LAST_LINES = 3
_LAST_CHARACTERS = 600
_TRIES = 2
_HOPELESS = ("InvalidImageName",)
_NORMAL = ("ContainerCreating", "PodInitializing", "Completed")

Log = Callable[[str, str, bool], str]
"""Pod, container, whether the one before this -> the end of its log."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a pod.

    Attributes:
        text: In one sentence.
        pod: The pod.
        container: The container whose log may say more; "" for none.
        previous: Whether that is the log of the container's last run.
        hopeless: Whether waiting will not mend it.
    """

    text: str
    pod: str = ""
    container: str = ""
    previous: bool = False
    hopeless: bool = False


def of_revision(pods: Sequence[Object], revision: str, attempt: str = "") -> list[Object]:
    """Returns the pods of a revision that are not about to end; with `attempt`, those of that staging alone."""
    return [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(REVISION_LABEL) == revision
        and not pod["metadata"].get("deletionTimestamp")
        and attempt in ("", (pod["metadata"].get("annotations") or {}).get(ATTEMPT_ANNOTATION))
    ]


def is_ready(pod: Object) -> bool:
    """Tells whether a pod gets requests."""
    return (_condition(pod, "Ready") or {}).get("status") == "True"


def ready_since(pod: Object) -> float | None:
    """Returns since when a pod is ready, in seconds since the epoch; None when it is not."""
    found = _condition(pod, "Ready") or {}
    moment = found.get("lastTransitionTime")
    if found.get("status") != "True" or not moment:
        return None
    return dt.datetime.fromisoformat(moment).timestamp()


def fault(pods: Sequence[Object]) -> Fault | None:
    """Returns what is wrong with a revision's pods, the worst first; None where nothing is."""
    found = [fault for pod in pods for fault in _faults(pod)]
    return max(found, key=lambda one: (one.hopeless, bool(one.container)), default=None)


def told(found: Fault, log: Log) -> str:
    """Returns a fault with the container's last words, where the API has them."""
    if not found.container:
        return found.text
    said = log(found.pod, found.container, found.previous) or log(found.pod, found.container, not found.previous)
    words = [line.strip() for line in said.splitlines() if line.strip()][-_LAST_LINES:]
    return f"{found.text}; it said: {' | '.join(words)[-_LAST_CHARACTERS:]}" if words else found.text


def _faults(pod: Object) -> Iterator[Fault]:
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    scheduled = _condition(pod, "PodScheduled") or {}
    if scheduled.get("status") == "False":
        yield Fault(f"pod {name} finds no node: {scheduled.get('message') or scheduled.get('reason', '')}", name)
    if status.get("phase") == "Failed":
        yield Fault(f"pod {name} failed: {status.get('message') or status.get('reason', '')}", name)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or []:
            if (found := _container_fault(name, container, kind.startswith("init"))) is not None:
                yield found


def _container_fault(pod: str, container: Object, init: bool) -> Fault | None:
    name, restarts = container["name"], int(container.get("restartCount") or 0)
    state, last = container.get("state") or {}, container.get("lastState") or {}
    what = f"{'init container' if init else 'container'} {name} of pod {pod}"
    waiting = state.get("waiting") or {}
    ended = state.get("terminated") or last.get("terminated") or {}
    if ended and (ended.get("exitCode") or not init) and not state.get("running"):
        text = f"{what} ended with code {ended.get('exitCode')} ({ended.get('reason', 'Error')})"
        if message := str(ended.get("message") or "").strip():
            text += f": {message[-_LAST_CHARACTERS:]}"
        if waiting.get("reason"):
            text += f", {waiting['reason']}"
        hopeless = waiting.get("reason") == "CrashLoopBackOff" and restarts >= _TRIES
        return Fault(text, pod, name, previous="terminated" not in state, hopeless=hopeless)
    reason = waiting.get("reason", "")
    if reason and reason not in _NORMAL:
        return Fault(f"{what}: {reason}: {waiting.get('message', '')}".rstrip(": "), pod, hopeless=reason in _HOPELESS)
    if not init and state.get("running") and not container.get("ready"):
        return Fault(f"{what} runs and is not ready yet", pod, name)
    return None


def _condition(pod: Object, kind: str) -> Object | None:
    found = (pod.get("status") or {}).get("conditions") or []
    return next((condition for condition in found if condition.get("type") == kind), None)
