"""What the application is made of, out of the routes file and the secrets that it names."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from shipway.serving.limits import MIB
from shipway.triggers.auth import Auth, Bearer, GitHubSignature, Open, SignedBody, read_secret
from shipway.triggers.expression import expression
from shipway.triggers.routes import Routes, Source
from shipway.triggers.sources.call import Reading


@dataclass(frozen=True, slots=True)
class HookLimits:
    """What a caller may do at most.

    Attributes:
        body_bytes: Largest body.
        depth: Levels of nesting in it.
        rate: Requests of one source a second.
        keep_seconds: How long an alert that started nothing is kept; 0 for ever.
    """

    body_bytes: int = MIB
    depth: int = 64
    rate: float = 2000.0
    keep_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Hook:
    """A source that may call.

    Attributes:
        kind: The language it speaks, a name of `sources.kinds.KINDS`.
        reading: How it is read.
        auth: How it shows who it is.
    """

    kind: str
    reading: Reading
    auth: Auth


@dataclass(frozen=True, slots=True)
class AppSettings:
    """How the application behaves.

    Attributes:
        hooks: The sources by name.
        readers: How those who read alerts and runs show who they are.
        limits: What a caller may do at most.
    """

    hooks: Mapping[str, Hook]
    readers: Auth = field(default_factory=Open)
    limits: HookLimits = field(default_factory=HookLimits)


def app_settings(routes: Routes, environment: Mapping[str, str] | None = None) -> AppSettings:
    """Returns the settings that a routes file asks for.

    Args:
        routes: The routes file.
        environment: Where secrets are looked up; default: this process's variables.

    Raises:
        InputError: A secret is missing or too short.
    """
    limits = routes.limits
    readers = routes.readers.bearer
    return AppSettings(
        hooks={
            name: Hook(source.kind, reading_of(name, source), _auth(source, limits.skew_seconds, environment))
            for name, source in routes.sources.items()
        },
        readers=Bearer(read_secret(readers, environment)) if readers else Open(),
        limits=HookLimits(
            body_bytes=limits.body_bytes,
            depth=limits.depth,
            rate=limits.rate_per_second,
            keep_seconds=limits.keep_seconds,
        ),
    )


def without_authentication(settings: AppSettings) -> list[str]:
    """Returns the places in the routes file that let in anybody."""
    found = [f"sources.{name}" for name, hook in settings.hooks.items() if isinstance(hook.auth, Open)]
    return [*found, "readers"] if isinstance(settings.readers, Open) else found


def reading_of(name: str, source: Source) -> Reading:
    """Returns how a source of the routes file is read."""
    return Reading(
        source=name,
        event=source.event,
        fingerprint=expression(source.fingerprint) if source.fingerprint else None,
        title=expression(source.title) if source.title else None,
        labels={label: expression(query) for label, query in source.labels.items()},
    )


def _auth(source: Source, skew_seconds: float, environment: Mapping[str, str] | None) -> Auth:
    if source.auth is None:
        return Open()
    if source.auth.github:
        return GitHubSignature(read_secret(source.auth.github, environment))
    if source.auth.hmac:
        return SignedBody(read_secret(source.auth.hmac, environment), skew_seconds)
    return Bearer(read_secret(str(source.auth.bearer), environment))
