"""Entry point of ``zml-dask``: finds the command, and turns errors into one clear line."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Any

import click

from zml_dask import NEEDS_UNIX, __version__
from zml_dask.arguments import nearest
from zml_dask.errors import ZmlError
from zml_dask.text_safety import escape_text

COMMANDS = {
    "build": "Build the records of CATALOGUE into DATASET.",
    "catalogue": "List the records of CATALOGUE that a condition chooses.",
    "cite": "Print how to cite DATASET and its records.",
    "cluster-config": "Print the settings of the cluster configuration FILE.",
    "demo": "Build a small dataset from the software installed here.",
    "derive": "Compute derived tables from the files of DATASET.",
    "export": "Write DATASET into DIR in another form.",
    "fetch": "Fetch the archives of CATALOGUE's records into CACHE.",
    "grep": "Search the text of DATASET for PATTERN, line by line.",
    "harvest": "Harvest Zenodo's software records into CATALOGUE.",
    "import-legacy": "Import the 2018 dataset SOURCE into DATASET.",
    "learn": "Learn the languages of DATASET's images, and test it.",
    "predict": "Tell which language FILES are written in.",
    "query": "Count and list the files of DATASET that match WHERE.",
    "repack": "Compress the images of DATASET again, at another level.",
    "report": "Write a page of counts, plots and failures of DATASET.",
    "sandbox": "Serve the software installed here as a local Zenodo.",
    "show": "Show a record of DATASET: its tree, or one of its files.",
    "similar": "List what is most similar to WHAT in DATASET.",
    "sql": "Answer QUERY, a SELECT over the tables of DATASET.",
    "status": "Show how far DATASET is, without changing it.",
    "update": "Append to DATASET what is new since its harvest.",
    "verify": "Check every object and image of DATASET.",
    "view": "Browse DATASET's images and their code on a local page.",
}
"""Command name -> its line in the help, which needs no import: all commands together take a
second."""

_MODULES = {
    "asking": ("cite", "query", "similar", "sql"),
    "building": ("build", "fetch", "import-legacy", "update"),
    "harvesting": ("catalogue", "harvest"),
    "jobs": ("derive", "export", "grep", "repack"),
    "looking": ("report", "show", "status", "view"),
}
"""Module of `zml_dask.cli` -> its commands; any other command has a module of its own name."""

_RESUMED = frozenset(
    {"build", "derive", "export", "fetch", "harvest", "import-legacy", "repack", "update"}
)
"""Commands of which an interrupted run is continued by the next."""

_GLOBAL_FLAGS = ("--debug", "--quiet")


class _LazyGroup(click.Group):
    """A group that imports a command's module only when that command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        module = next((key for key, names in _MODULES.items() if cmd_name in names), name)
        command: click.Command = getattr(import_module(f"zml_dask.cli.{module}"), f"{name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (BrokenPipeError, SystemExit) as ended:
            # Who reads standard output, such as head, has enough; rich leaves with a status of 1.
            if BrokenPipeError not in (type(ended), type(ended.__context__)):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(0) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS:
            advice = nearest(args[0], COMMANDS)
            raise click.UsageError(f"there is no command {args[0]!r}; {advice}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zml-dask")
@click.option("--debug", is_flag=True, help="Show a traceback when something goes wrong.")
@click.option("--quiet", is_flag=True, help="Print results and errors only, no progress.")
@click.pass_context
def cli(ctx: click.Context, debug: bool, quiet: bool) -> None:
    """Turn published research software into one dataset of images.

    Start with the demo, which needs no network; then harvest and build records of
    your own, and query, show, report or view the dataset. COMMAND --help lists
    more of each; --quiet and --debug may stand before or after it.
    """
    ctx.obj = {"debug": debug, "quiet": quiet}


def main(arguments: list[str] | None = None) -> Any:
    """Run ``zml-dask`` and exit: 0 done, 1 a failed run, 2 a wrong call, 130 interrupted."""
    if find_spec("fcntl") is None:
        click.echo(f"zml-dask: {NEEDS_UNIX}", err=True)
        sys.exit(1)
    if arguments is None:
        # In workers, a file types.py of the current folder would stand before Python's own.
        os.environ.setdefault("PYTHONSAFEPATH", "1")
    words = sys.argv[1:] if arguments is None else arguments
    if None in (sys.stdin, sys.stdout, sys.stderr):  # closed by who called
        while os.open(os.devnull, os.O_RDWR) <= 2:  # or the next file takes its number
            pass
        devnull = open(os.devnull, "w")  # noqa: PTH123, SIM115 - as long as the process
        sys.stdout, sys.stderr = sys.stdout or devnull, sys.stderr or devnull
    if isinstance(sys.stdout, TextIOWrapper):
        # A terminal that lacks a character of somebody's code shows its number.
        sys.stdout.reconfigure(errors="backslashreplace")
    # The two global flags are accepted before and after the command's name.
    flags = [word for word in words if word in _GLOBAL_FLAGS]
    words = flags + [word for word in words if word not in _GLOBAL_FLAGS]
    debug = "--debug" in flags
    if threading.current_thread() is threading.main_thread():
        # Batch systems and containers send SIGTERM, which is to mean the same as Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments is None and not debug:  # what Python says while it ends comes after all else
        sys.unraisablehook = _ignore_unraisable
    try:
        with nullcontext() if debug else _quiet_libraries():
            sys.exit(cli.main(args=words, prog_name="zml-dask", standalone_mode=False) or 0)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except (click.Abort, KeyboardInterrupt):
        if debug:
            raise
        again = next((word for word in words if word in COMMANDS), "") in _RESUMED
        advice = "; run the same command again to continue" if again else ""
        click.echo(f"zml-dask: interrupted{advice}", err=True)
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as asked:
        click.echo(asked.format_message(), err=True)
        sys.exit(asked.exit_code)
    except click.ClickException as wrong:
        click.echo(f"zml-dask: {_describe_usage_error(wrong)}", err=True)
        sys.exit(wrong.exit_code)
    except ZmlError as error:
        if debug:
            raise
        # A server's or an archive's own words may be in it.
        click.echo(f"zml-dask: {escape_text(str(error))}", err=True)
        sys.exit(error.exit_status)
    except Exception as error:
        if debug:
            raise
        click.echo(f"zml-dask: {_describe_unexpected(error)}", err=True)
        sys.exit(1)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep warnings and logs of libraries off the terminal, here and in worker processes.

    The commands themselves report what matters of them (a lost worker, a retry, a full disk).
    """
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    for name in ("distributed", "dask", "dask_jobqueue", "tornado", "asyncio", "bokeh"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _ignore_unraisable(_unraisable: object) -> None:
    """Drop an exception that cannot be caught: of a thread or a coroutine that was cut off."""


def _describe_usage_error(wrong: click.ClickException) -> str:
    """Describe a wrong call, and name the help of its command."""
    message = escape_text(wrong.format_message())
    context = wrong.ctx if isinstance(wrong, click.UsageError) else None
    if context is None:
        return message
    return f"{message.removesuffix('.')} (see {context.command_path} --help)"


def _describe_unexpected(error: Exception) -> str:
    """Describe an exception of the disk or the system, or one that is a mistake of this program."""
    if isinstance(error, OSError) and error.strerror:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                "no space is left where the result goes, or for temporary files in "
                f"{escape_text(tempfile.gettempdir())} (TMPDIR names another folder)"
            )
        where = f"{error.filename}: " if error.filename is not None else ""
        return escape_text(f"{where}{error.strerror}; --debug shows where")
    lines = str(error).splitlines() or [""]
    return escape_text(
        f"unexpected {type(error).__name__}: {lines[0]}; this is a mistake of the program: "
        "please report what the same command prints with --debug"
    )
