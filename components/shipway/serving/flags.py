"""Feature flags through OpenFeature: a provider's flag may name the version that a request gets.

The flag is text. It is evaluated with the caller's key as targeting key and the request headers that are named
as attributes. An empty value steers nothing. A version that is not served or not ready, and a provider that fails,
takes too long or has too much before it, leave the request to the shares of the traffic, and are counted.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shipway.errors import InputError, UserCodeError

if TYPE_CHECKING:
    from openfeature.client import OpenFeatureClient

log = logging.getLogger("shipway.serving")

_DOMAIN = "shipway"
_THREADS = 4
_MOST_WAITING = 64
_SECONDS = 0.25


@dataclass(slots=True)
class FlagCounts:
    """What became of requests.

    Attributes:
        steered: Requests whose version the flag named.
        fallbacks: Requests that the flag could not steer, although it should have.
    """

    steered: int = 0
    fallbacks: int = 0


class Flags:
    """Asks a flag for a request's version.

    Attributes:
        counts: What became of the requests.

    Args:
        flag: The flag's key.
        provider: `MODULE:FUNCTION` or `FILE.py:FUNCTION` that returns an OpenFeature provider.
        attributes: Request headers that the provider gets as attributes.

    Raises:
        InputError: There is no such function, or what it returns is no provider.
        UserCodeError: It raised, or its provider did not become ready.
    """

    def __init__(self, flag: str, provider: str, attributes: Sequence[str] = ()) -> None:
        self.counts = FlagCounts()
        self._flag = flag
        self._attributes = [(name, name.lower().encode()) for name in attributes]
        self._client = _client(provider)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="flags")
        self._waiting = 0
        self._said = ""

    async def version(self, key: str, headers: Sequence[tuple[bytes, bytes]]) -> str:
        """Returns the version that the flag names for a request; "" for none. A failure is counted, and logged once.

        Args:
            key: What the caller is known by.
            headers: The request's headers, names in lower case.
        """
        if self._waiting >= _MOST_WAITING:
            return self._failed("the flag provider has too many requests before it")
        self._waiting += 1
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, key, self._known(headers))
        # Also a request that gave up keeps its place until the provider has let go of its thread.
        asked.add_done_callback(self._answered)
        try:
            version, fault = await asyncio.wait_for(asyncio.shield(asked), _SECONDS)
        except TimeoutError:
            return self._failed(f"the flag provider did not answer within {_SECONDS:g} s")
        return self._failed(fault) if fault else version

    def missed(self, version: str) -> None:
        """Notes that the version named is not there to answer."""
        self._failed(f"flag {self._flag} names version {version!r}, which is not served or not ready")

    def close(self) -> None:
        """Ends the provider."""
        from openfeature import api

        self._threads.shutdown(wait=False, cancel_futures=True)
        api.shutdown()

    def _answered(self, asked: "asyncio.Future[tuple[str, str]]") -> None:
        self._waiting -= 1
        if not asked.cancelled():
            asked.exception()

    def _known(self, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, str]:
        given = dict(headers)
        return {name: given[header].decode("latin-1") for name, header in self._attributes if header in given}

    def _ask(self, key: str, attributes: dict[str, str]) -> tuple[str, str]:
        """Returns the version and "", or "" and what went wrong; OpenFeature's client raises nothing."""
        from openfeature.evaluation_context import EvaluationContext

        details = self._client.get_string_details(self._flag, "", EvaluationContext(key or None, attributes))
        if details.error_code is not None:
            return "", f"flag {self._flag}: {details.error_code}: {details.error_message or 'no reason given'}"
        return details.value, ""

    def _failed(self, reason: str) -> str:
        self.counts.fallbacks += 1
        if reason != self._said:
            self._said = reason
            log.warning("%s; such requests follow the shares of the traffic", reason)
        return ""


def _client(target: str) -> "OpenFeatureClient":
    from openfeature import api
    from openfeature.exception import OpenFeatureError

    from shipway.lineage.project import load_object, user_code

    make: Any = load_object(target, "--flag-provider")
    if not callable(make):
        raise InputError(f"--flag-provider: {target} is no function")
    with user_code(f"--flag-provider {target}"):
        provider = make()
    if not hasattr(provider, "resolve_string_details"):
        found = type(provider).__name__
        raise InputError(f"--flag-provider: {target} returned {found}, expected an OpenFeature provider")
    try:
        api.set_provider_and_wait(provider, _DOMAIN)
    except OpenFeatureError as error:
        raise UserCodeError(f"--flag-provider {target}: the provider is not ready: {error}") from error
    return api.get_client(_DOMAIN)
