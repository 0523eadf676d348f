"""`shipway step`: any stage as a plain command. Of what is not in the standard library only kfp's runtime is needed."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from shipway.errors import InputError, ShipwayError

if TYPE_CHECKING:
    from shipway.platforms.steps import Option, Stage

_EXIT_CODES = """\
Exit codes: 0 done (a verdict `rejected` is a result, too), 2 bad input, 3 refused, 1 anything else."""


def main(arguments: Sequence[str]) -> int:
    """Runs `shipway step ARGUMENTS` and returns the exit code; a failure that can be explained is one message.

    Args:
        arguments: What stands behind `step`.
    """
    try:
        return _main(list(arguments))
    except ShipwayError as error:
        for line in str(error).splitlines():
            print(f"shipway: {line}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("shipway: interrupted", file=sys.stderr)
        return 130


def _main(arguments: list[str]) -> int:
    from shipway.platforms.steps import stages

    found = stages()
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview(found))
        return 0 if arguments else 2
    name = arguments[0]
    if name not in found:
        close = difflib.get_close_matches(name, found, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(found)}"
        raise InputError(f"step {name}: no such stage; {hint}")
    stage = found[name]
    parser = _parser(stage)
    if any(argument in ("-h", "--help") for argument in arguments[1:]):
        parser.print_help()
        return 0
    return _run(stage, vars(parser.parse_args(arguments[1:])))


def _run(stage: Stage, given: dict[str, Any]) -> int:
    from shipway.lineage.files import write_json
    from shipway.platforms.step_values import parameters
    from shipway.platforms.steps import run_stage, shown

    own = {option.name: given[option.name] for option in stage.options if given[option.name] is not None}
    given_places = {option.name: own.pop(option.name) for option in stage.options if option.kind == "artifact"}
    artifacts = {name: places if isinstance(places, list) else [places] for name, places in given_places.items()}
    values = parameters(stage, own, given["spec"], given["set"])
    results = run_stage(stage, artifacts, values, given["out"])
    if given["result"]:
        try:
            write_json(given["result"], results)
        except OSError as error:
            raise InputError(f"--result {given['result']}: cannot write it: {error.strerror or error}") from error
    if results:
        print(shown(next(iter(results.values())) if len(results) == 1 else results), flush=True)
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are Shipway's own."""

    def error(self, message: str) -> NoReturn:
        name = self.prog.rpartition(" ")[2]
        wrong = message.removeprefix("unrecognized arguments: ").split()[0]
        known = [flag for action in self._actions for flag in action.option_strings]
        close = difflib.get_close_matches(wrong, known, n=1) if message.startswith("unrecognized") else []
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"step {name}: {message}{hint}; see shipway step {name} --help")


def _parser(stage: Stage) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=f"shipway step {stage.name}",
        description=stage.summary,
        epilog=_outputs(stage),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for option in stage.options:
        artifact = option.kind == "artifact"
        parser.add_argument(
            option.flag,
            dest=option.name,
            metavar="PATH" if artifact else _metavar(option),
            required=artifact,
            action="append" if option.many else "store",
            help=_help(option).replace("%", "%%"),
        )
    parser.add_argument("--out", metavar="DIR", required=True, help="Folder or URI that gets the outputs.")
    parser.add_argument(
        "--spec", metavar="FILE", default="", help="A spec: gives every option that it has a value for."
    )
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="Override a key of the spec, as train.lr=0.01."
    )
    parser.add_argument(
        "--result", metavar="FILE", default="", help="Also write the returned values to this file, as a JSON object."
    )
    return parser


def _metavar(option: Option) -> str:
    return "TEXT" if option.type is str else "JSON"


def _help(option: Option) -> str:
    given = option.default not in (None, "")
    again = " Once for each, in their order." if option.many else ""
    return f"{option.help}{again}{f' Default: {option.default}.' if given else ''}"


def _outputs(stage: Stage) -> str:
    from shipway.lineage.steps import RECORD_FILE

    lines = ["outputs in DIR:"]
    lines += [f"  {name:<20}  {text}" for name, text in stage.output_help.items()]
    lines += [f"  {name:<20}  What is returned; the last line of standard output, too." for name in stage.results]
    lines += [f"  {RECORD_FILE:<20}  What the step did, how long it took, and why it failed."]
    lines += ["", "A PATH may be a URI (s3://, minio://, gs://). A value @FILE is read from a file.", _EXIT_CODES]
    return "\n".join(lines)


def _overview(found: dict[str, Stage]) -> str:
    width = max(map(len, found))
    listed = "\n".join(f"  {name:<{width}}  {stage.summary}" for name, stage in found.items())
    return (
        "usage: shipway step STAGE [OPTIONS] --out DIR\n\n"
        "Run one stage as a plain command: paths and JSON in, paths out.\n\n"
        f"stages:\n{listed}\n\n"
        f"`shipway step STAGE --help` tells a stage's options.\n{_EXIT_CODES}"
    )
