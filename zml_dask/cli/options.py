"""What commands share: their options, the cluster that they ask for, and how they print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click
from dask.utils import parse_bytes

from zml_dask.engine.clusters import (
    ClusterOptions,
    check_cluster,
    job_name_of,
    open_cluster,
    parse_adapt,
)
from zml_dask.engine.executors import SerialExecutor
from zml_dask.engine.job import OpenExecutor
from zml_dask.engine.progress import BuildProgress, open_progress
from zml_dask.errors import UsageError, ZmlError
from zml_dask.fetch.member import FetchLimits
from zml_dask.pipeline.build import on_cluster
from zml_dask.pipeline.build_options import BuildOptions, merged, options_from, read_options
from zml_dask.pipeline.outcome import BuildResult
from zml_dask.raster.language import IDENTIFIERS
from zml_dask.text_safety import as_argument, escape_text, number_of

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)

_CLUSTER = (
    click.option(
        "--cluster",
        default="local",
        metavar="local|slurm|tcp://...",
        help="Where to run: this machine, a section of dask-jobqueue (slurm, pbs, ...), the "
        "address of a scheduler, or a scheduler file.  [default: local]",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Number of workers, of one thread each."
    ),
    click.option(
        "--adapt", metavar="MIN:MAX", help="Scale the number of workers with the work left."
    ),
    click.option(
        "--cluster-config",
        type=_FILE,
        help="Dask configuration of the cluster (see dask-jobqueue.yaml).",
    ),
    click.option(
        "--dashboard", metavar="ADDRESS", help="Where Dask's dashboard listens; 'off' for none."
    ),
)

MAX_ARCHIVE_SIZE = click.option(
    "--max-archive-size", metavar="SIZE", help="Refuse larger archives (say 2GiB)."
)
API_URL = click.option(
    "--api-url", metavar="URL", help="Root of Zenodo's API, if not as harvested."
)
RETRY_FAILED = click.option(
    "--retry-failed", is_flag=True, help="Try again what failed permanently."
)
SCRATCH = click.option(
    "--scratch",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Local folder for temporary files.",
)
TOKEN_FILE = click.option(
    "--token-file", type=_FILE, help="File with a Zenodo access token; else ZENODO_TOKEN."
)

_FETCH = (
    click.option("--cache", metavar="CACHE", help="Use archives fetched by zml-dask fetch."),
    click.option("--offline", is_flag=True, help="Use only the cache."),
    API_URL,
    click.option("--github-url", metavar="URL", help="Fetch repositories from here instead."),
    TOKEN_FILE,
    click.option("--scratch", metavar="DIR", help="Node-local folder for archives being read."),
)

_BUILD = (
    click.option("--export", metavar="FORMATS", help="Also write 2018's files: pickle,hdf5."),
    RETRY_FAILED,
    click.option(
        "--config",
        type=_FILE,
        help="Options from a TOML file; those of the command line override it.",
    ),
    click.option(
        "--binary",
        type=click.Choice(["list", "keep"]),
        help="Files with NUL bytes: only list them, or rasterise them as 2018 did.",
    ),
    click.option(
        "--language",
        type=click.Choice(list(IDENTIFIERS)),
        help="Name files' languages by linguist's tables, or by content (extra magika; slow).",
    ),
    MAX_ARCHIVE_SIZE,
    click.option(
        "--max-file-size",
        metavar="SIZE",
        help="List larger files, and do not read them (say 200kB or 1MB).  [default: 100kB, or as "
        "the dataset was built]",
    ),
)


def cluster_options(command: Command) -> Command:
    """Add the options that say where to run."""
    return _added(command, _CLUSTER)


def build_options(command: Command) -> Command:
    """Add the options that say how to build."""
    return _added(command, (*_BUILD, *_FETCH))


def fetch_options(command: Command) -> Command:
    """Add the options that say how records are fetched."""
    return _added(command, _FETCH)


def _added(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


def options_of(
    values: dict[str, Any], recorded: Mapping[str, Any] = MappingProxyType({})
) -> BuildOptions:
    """Return the build options that the command line and its configuration file give.

    `recorded` is what a dataset was built with, shaped like the file: the defaults. Raises
    `UsageError` if a value is invalid.
    """
    given: dict[str, Any] = {
        name: str(values[name])
        for name in ("cache", "api_url", "github_url", "token_file", "scratch", "language")
        if values.get(name) is not None
    }
    if values.get("level") is not None:
        given["level"] = values["level"]
    given |= {name: True for name in ("offline", "retry_failed") if values.get(name)}
    if values.get("export"):
        given["export"] = [word.strip() for word in values["export"].split(",") if word.strip()]
    if values.get("binary"):
        given["keep_binary"] = values["binary"] == "keep"
    sizes = {"max_archive_size": "max_archive_bytes", "max_file_size": "max_file_bytes"}
    limits = {key: _bytes(name, values[name]) for name, key in sizes.items() if values.get(name)}
    if limits:
        given["limits"] = limits
    if given.get("token_file"):
        warn_of_exposed(Path(given["token_file"]))
        # Workers may have another working directory.
        given["token_file"] = str(Path(given["token_file"]).absolute())
    if given.get("cache") and "://" not in given["cache"]:
        given["cache"] = str(Path(given["cache"]).absolute())
    if values.get("config"):
        return read_options(values["config"], given, recorded)
    return options_from(merged(recorded, given))


def warn_of_exposed(token_file: Path | None) -> None:
    """Warn on standard error about a token file that other users of the machine can read."""
    if token_file is not None and (mode := token_file.stat().st_mode & 0o777) & 0o077:
        name = escape_text(str(token_file))
        click.echo(
            f"warning: others can read the token in {name} (mode {mode:04o}): chmod 600 {name}",
            err=True,
        )


def limits_of(max_archive_size: str | None) -> FetchLimits:
    """Return the default limits, with the given size of archives."""
    if max_archive_size is None:
        return FetchLimits()
    return FetchLimits(max_archive_bytes=_bytes("max_archive_size", max_archive_size))


def _bytes(name: str, text: str) -> int:
    try:
        size = int(parse_bytes(text))
    except ValueError:
        size = 0
    if size <= 0:
        flag = f"--{name.replace('_', '-')}"
        raise UsageError(f"{flag} {text!r} is not a size; write a number and a unit, as 2MB")
    return size


def names_cluster(values: Mapping[str, Any]) -> bool:
    """Whether the command line names a cluster or its size."""
    asked = any(values.get(name) for name in ("workers", "adapt", "cluster_config"))
    return asked or values["cluster"] != "local"


def executor_of(
    values: dict[str, Any], progress: BuildProgress, dataset: str, *, alone: bool = False
) -> OpenExecutor:
    """Return a function that opens the command line's cluster for work on a dataset.

    With `alone`, this process does the work itself where no cluster is asked for.
    """
    if alone and not names_cluster(values):
        return lambda: nullcontext(SerialExecutor())
    adapt = parse_adapt(values["adapt"]) if values.get("adapt") else None
    options = ClusterOptions(
        config=values.get("cluster_config"),
        dashboard=values.get("dashboard"),
        job_name=job_name_of(dataset),
        say=progress.say,
    )
    check_cluster(values["cluster"], options)
    return on_cluster(
        partial(open_cluster, values["cluster"], values.get("workers"), adapt, options)
    )


@contextmanager
def progress_of(ctx: click.Context) -> Iterator[BuildProgress]:
    """Show progress on standard error, as the terminal and ``--quiet`` permit."""
    with open_progress(sys.stderr, quiet=ctx.obj["quiet"]) as progress:
        yield progress


def print_result(result: BuildResult) -> None:
    """Print the result of a build, on standard output."""
    amount = number_of(record=result.n_records, file=result.n_files, image=result.n_images)
    if not result.committed and not result.n_staged and not result.n_failed:
        click.echo(
            f"nothing to do: {result.dataset} is up to date with {amount}{_left_out(result)}"
        )
        return
    click.echo(
        f"{result.dataset}: {amount} ({number_of(record=result.n_staged)} built in "
        f"{result.seconds:.1f} s)"
        f"{_left_out(result)}"
    )
    if result.failures:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in result.failures.items())
        dataset = as_argument(result.dataset)
        click.echo(f"failed: {kinds} (zml-dask status {dataset} --failures says more)")
        if not result.n_records and not result.n_staged:
            # A cache that is empty, a network that is down: scripts are not to go on from there.
            raise ZmlError(f"{result.dataset} holds no record: all that were tried failed")


def _left_out(result: BuildResult) -> str:
    return f"; {result.left_out}" if result.left_out.files else ""
