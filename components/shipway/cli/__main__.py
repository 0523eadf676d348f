"""The `shipway` command's entry: `step` runs in images, which lack what the other commands need (the extra `cli`)."""

import sys


def main() -> None:
    """Runs the command."""
    if sys.argv[1:2] == ["step"]:
        from shipway.cli.step import main as step

        sys.exit(step(sys.argv[2:]))
    try:
        from shipway.cli.main import main as everything
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "click", "rich"):
            raise
        print(
            f"shipway: this installation has `shipway step` only (no package {error.name!r}); "
            "the other commands need Shipway's extra `cli`",
            file=sys.stderr,
        )
        sys.exit(2)
    everything()


if __name__ == "__main__":
    main()
