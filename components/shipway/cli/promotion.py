"""The commands about a version's way to production: approve, promote, rollback, rollout."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shipway import __version__
from shipway.cli.options import (
    ImagesOption,
    RepositoryOption,
    SettingOption,
    SpecArgument,
    StateOption,
    TagOption,
    load_project,
    use_state,
)
from shipway.errors import InputError

if TYPE_CHECKING:
    from shipway.endpoints.protocol import Endpoint, EndpointStatus
    from shipway.rollout.memory import Memory

rollout_app = typer.Typer(help="Look at a rollout that is under way, or decide for it.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The model.")]
EndpointSpecOption = Annotated[
    Path | None,
    typer.Option("--spec", help="The spec whose endpoint serves the model; default: this machine's endpoint."),
]
RunsOption = Annotated[Path, typer.Option(help="Folder that gets a folder a run.")]


def approve(
    name: NameArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="A version's number or alias.")],
    spec: Annotated[Path, typer.Option("--spec", help="The spec, which says who may approve.")],
    state: StateOption = Path(".shipway"),
) -> None:
    """Say yes to a version's promotion, as the account or the CI job that runs this."""
    from shipway.promote.approval import give_approval

    use_state(state)
    loaded = load_project(spec, None)
    _check_name(name, loaded.name, spec)
    given = give_approval(name, version, loaded.rollout)
    typer.echo(f"{name} version {version} ({given.digest}): approved by {given.approver} on {_shown(given.when)}")


def promote(
    spec: SpecArgument,
    version: Annotated[str, typer.Option(help="A version's number or alias; default: staging-verified.")] = "",
    override: Annotated[
        str, typer.Option(metavar="REASON", help="Why a version that was rolled back is promoted all the same.")
    ] = "",
    runner: Annotated[str, typer.Option(help="subprocess or docker: what each step runs in.")] = "subprocess",
    setting: SettingOption = None,
    runs: RunsOption = Path("runs"),
    state: StateOption = Path(".shipway"),
    repository: RepositoryOption = "shipway",
    tag: TagOption = __version__,
    images: ImagesOption = None,
) -> None:
    """Roll a version out to production, on this machine; it ends live (exit code 0) or rolled back (3)."""
    from shipway.model.promotion import account
    from shipway.platforms.compile import Images
    from shipway.platforms.local import RunOptions
    from shipway.platforms.local import run as run_locally

    if runner not in ("subprocess", "docker"):
        raise InputError(f"--runner: expected subprocess or docker, found {runner!r}")
    given = {"version": version, "override": override, "who": account() if override else ""}
    summary = run_locally(
        RunOptions(
            spec,
            runner,
            pipeline="promotion",
            given={name: value for name, value in given.items() if value},
            settings=setting or [],
            runs=runs,
            state=state,
            images=Images.read(images, repository, tag),
        )
    )
    raise typer.Exit(summary.exit_code)


def rollback(
    name: NameArgument,
    spec: EndpointSpecOption = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    to: Annotated[str, typer.Option("--to", metavar="VERSION", help="Back to this one; default: the one before.")] = "",
    setting: SettingOption = None,
    runs: RunsOption = Path("runs"),
    state: StateOption = Path(".shipway"),
) -> None:
    """Put the version before back into production, at once: traffic first, then the registry, then the report."""
    from shipway.model.promotion import RegistryLedger, account
    from shipway.notify.send import teller
    from shipway.rollout.rollout import roll_back
    from shipway.rollout.stage import going_back_to

    use_state(state)
    endpoint = _endpoint(name, spec, setting)
    status = endpoint.status()
    stable = going_back_to(status, _memory(status), to)
    who = account()
    report = runs / f"{name}-rollback-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%S}" / "index.html"
    result = roll_back(
        name,
        endpoint,
        RegistryLedger(),
        stable=stable,
        reason=f"{reason} ({who})" if reason else f"rolled back by {who}",
        alert=teller(_notify(spec, setting)),
        report_path=report,
    )
    typer.echo(f"{name}: {result.reason}")
    typer.echo(f"report: {report}")


@rollout_app.command(name="status")
def status_(
    name: NameArgument,
    spec: EndpointSpecOption = None,
    setting: SettingOption = None,
    state: StateOption = Path(".shipway"),
) -> None:
    """Show what production serves, and the rollout that is under way."""
    use_state(state)
    status = _endpoint(name, spec, setting).status()
    for found in status.revisions:
        doing = f"mirrors {found.mirror} %" if found.mirror else f"{found.share} % of the traffic"
        ready = "ready" if found.ready else f"not ready: {found.reason or 'no reason given'}"
        typer.echo(f"{found.id}  version {found.version}  {doing}  {ready}")
    if not status.revisions:
        typer.echo(f"{name}: nothing is served in production")
    typer.echo("\n".join(_story(_memory(status))))


@rollout_app.command()
def resume(
    name: NameArgument,
    spec: EndpointSpecOption = None,
    setting: SettingOption = None,
    state: StateOption = Path(".shipway"),
) -> None:
    """Let a rollout that waits for a person go on, setting aside what it waits for."""
    _command(name, spec, setting, state, "resume")
    typer.echo(f"{name}: the rollout will go on")


@rollout_app.command()
def abort(
    name: NameArgument,
    spec: EndpointSpecOption = None,
    setting: SettingOption = None,
    state: StateOption = Path(".shipway"),
) -> None:
    """End a rollout: its controller gives all traffic back, and the version is not marked."""
    _command(name, spec, setting, state, "abort")
    typer.echo(f"{name}: the rollout will end; if no controller runs any more, use: shipway rollback {name}")


def _command(name: str, spec: Path | None, setting: list[str] | None, state: Path, kind: str) -> None:
    from shipway.model.promotion import account
    from shipway.rollout.rollout import send_command

    use_state(state)
    send_command(_endpoint(name, spec, setting), "resume" if kind == "resume" else "abort", account())


def _endpoint(name: str, spec: Path | None, setting: list[str] | None) -> "Endpoint":
    """Returns production's endpoint: the spec's, or this machine's as the last run on it left it."""
    if spec is None:
        if setting:
            raise InputError("--set: changes a spec, but there is no --spec")
        from shipway.endpoints.local import LocalEndpoint

        return LocalEndpoint(name, environment="production")
    from shipway.endpoints.open import open_endpoint
    from shipway.spec import EndpointSettings

    loaded = load_project(spec, setting)
    _check_name(name, loaded.name, spec)
    section = loaded.endpoint.model_copy(update={"kind": loaded.endpoint.kind or "local"})
    return open_endpoint(name, EndpointSettings(endpoint=section, vertex=loaded.vertex), "production")


def _notify(spec: Path | None, setting: list[str] | None) -> str:
    """Returns the spec's section notify as a pipeline has it; "" without a spec: alerts are written down alone."""
    from shipway.spec import dump_section

    return dump_section(load_project(spec, setting).notify) if spec is not None else ""


def _check_name(name: str, found: str, spec: Path) -> None:
    if name != found:
        raise InputError(f"{spec}: it is of model {found!r}, not of {name!r}")


def _memory(status: "EndpointStatus") -> "Memory | None":
    from shipway.rollout.memory import read_memory

    return read_memory(status.record, status.name)


def _story(memory: "Memory | None") -> list[str]:
    """Returns what a rollout came to so far, in lines."""
    from shipway.rollout.rollout import stage_text

    if memory is None:
        return ["no rollout so far"]
    before = f" after version {memory.stable.release.version}" if memory.stable else ""
    lines = [f"rollout of version {memory.candidate.release.version}{before}: {stage_text(memory)}"]
    if memory.reason:
        lines.append(f"  {memory.reason}")
    lines += [
        f"  {step.label}: {step.requests} requests, since {_clock(step.since)}" + (f": {step.ended}" * bool(step.ended))
        for step in memory.steps
    ]
    if memory.paused:
        lines.append(
            f"  waits for a person since {_clock(memory.paused.since)}: {memory.paused.reason}; "
            f"shipway rollout resume|abort {memory.name}"
        )
    if memory.failing:
        lines.append(f"  {memory.failing.action} fails since {_clock(memory.failing.since)}: {memory.failing.reason}")
    if memory.lease:
        lines.append(f"  controlled by process {memory.lease.pid} on {memory.lease.host}")
    return lines


def _clock(seconds: float) -> str:
    return _shown(dt.datetime.fromtimestamp(seconds, dt.UTC))


def _shown(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"
