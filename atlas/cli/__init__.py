"""The command line: parse, call one function, print."""

from __future__ import annotations

import os
import signal
import sys

import typer

from atlas.cli import ask, construct, datasets, demonstrate, evaluate, obtain, predict, pseudo, train
from atlas.errors import AtlasError

INTERRUPTED = 128 + signal.SIGINT
"""What typer makes of Ctrl-C."""

app = typer.Typer(
    name="atlas",
    help="Many partially labelled abdominal CT datasets, one corpus, one model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(datasets.app, name="datasets")
app.command()(demonstrate.demo)
app.command()(obtain.fetch)
app.command()(construct.build)
app.command()(ask.coverage)
app.command()(ask.query)
app.command()(construct.verify)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(pseudo.pseudo)
app.command()(predict.predict)


@app.callback(invoke_without_command=True)
def _version(version: bool = typer.Option(False, "--version", help="Print the version and stop.")) -> None:
    if version:
        import atlas

        print(atlas.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line; every failure is one sentence on standard error and exit status 1."""
    try:
        app()
    except AtlasError as error:
        print(f"atlas: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("atlas: stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # the reader of our output (head, less) has gone; nothing is wrong with us
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if os.environ.get("ATLAS_DEBUG"):
            raise
        print(f"atlas: unexpected {type(error).__name__}: {error} (ATLAS_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(1)
