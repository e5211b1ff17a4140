"""Entry point of ``zml-dask``: finds the command, and turns errors into one clear line."""

from __future__ import annotations

import signal
import sys
import threading
from importlib import import_module
from typing import Any

import click

from zml_dask import __version__
from zml_dask.errors import ZmlError
from zml_dask.printable import printable

COMMANDS = {
    "build": "zml_dask.cli.build",
    "demo": "zml_dask.cli.demo",
    "export": "zml_dask.cli.export",
    "fetch": "zml_dask.cli.fetch",
    "harvest": "zml_dask.cli.harvest",
    "import-legacy": "zml_dask.cli.import_legacy",
    "query": "zml_dask.cli.query",
    "report": "zml_dask.cli.report",
    "sandbox": "zml_dask.cli.sandbox",
    "show": "zml_dask.cli.show",
    "status": "zml_dask.cli.status",
    "update": "zml_dask.cli.update",
    "verify": "zml_dask.cli.verify",
    "view": "zml_dask.cli.view",
}
"""Command name -> the module whose ``command`` it is."""

_GLOBAL_FLAGS = ("--debug", "--quiet")


class _LazyGroup(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zml-dask")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.option("--quiet", is_flag=True, help="Print results and errors only, no progress.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """Turn published research software into one dataset of images."""
    ctx.obj = {"debug": debug, "quiet": quiet}


def main(arguments: list[str] | None = None) -> Any:
    """Run ``zml-dask`` and exit: 0 done, 1 a failed run, 2 a wrong call, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    # The two global flags are accepted before and after the command's name.
    flags = [word for word in words if word in _GLOBAL_FLAGS]
    words = flags + [word for word in words if word not in _GLOBAL_FLAGS]
    debug = "--debug" in flags
    if threading.current_thread() is threading.main_thread():
        # Batch systems and containers ask by SIGTERM; that is to be as good as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.exit(cli.main(args=words, prog_name="zml-dask", standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except (click.Abort, KeyboardInterrupt):
        if debug:
            raise
        click.echo(
            "zml-dask: interrupted; the same command goes on where this one stopped", err=True
        )
        sys.exit(130)
    except click.ClickException as wrong:
        click.echo(f"zml-dask: {wrong.format_message()}", err=True)
        sys.exit(wrong.exit_code)
    except ZmlError as error:
        if debug:
            raise
        # A server's or an archive's own words may be in it.
        click.echo(f"zml-dask: {printable(str(error))}", err=True)
        sys.exit(error.exit_status)
