"""``zml-dask demo``: a small build on one machine, without a network."""

from __future__ import annotations

import shutil
import sys
import time
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from zml_dask.cli.drawing import draw
from zml_dask.cli.options import print_result, progress_of
from zml_dask.engine.clusters import ClusterOptions, open_cluster
from zml_dask.engine.progress import BuildProgress
from zml_dask.errors import UsageError
from zml_dask.net.client import HttpClient
from zml_dask.net.throttle import host_of, is_loopback
from zml_dask.pipeline.build import build_on, on_cluster
from zml_dask.pipeline.inputs import check_target
from zml_dask.query.dataset import Dataset, open_dataset
from zml_dask.records.harvest import HarvestOptions, harvest
from zml_dask.records.journal import load_state, state_path
from zml_dask.sandbox.distributions import installed_corpus
from zml_dask.sandbox.server import Sandbox
from zml_dask.store.storage import Storage
from zml_dask.text_safety import as_argument, escape_text, number_of

CATALOGUE = "catalogue.jsonl"
"""The demo's catalogue, beside the dataset."""

_GOOD_EXAMPLE = "language == 'Python' and n_lines >= 160 and n_cut == 0"
"""A file whose first image is full, and whole."""


@click.command("demo")
@click.argument("dataset", default="zenodo-ml", type=click.Path(path_type=Path, file_okay=False))
@click.option("--workers", type=click.IntRange(1), help="Worker processes; default one per core.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=50,
    show_default=True,
    help="At most this many software packages.",
)
@click.pass_context
def demo_command(ctx: click.Context, dataset: Path, workers: int | None, limit: int) -> None:
    """Serve the software installed here as a small Zenodo, harvest it, and build DATASET.

    Needs no network but the loopback device. The catalogue is kept beside the
    dataset, as catalogue.jsonl. Run again, it adds what was installed since.
    """
    started = time.monotonic()
    catalogue = dataset.absolute().parent / CATALOGUE
    info = check_target(Storage.open(dataset))  # before anything of a former demo is given up
    if info is not None and not is_loopback(host_of((info.harvest or {}).get("api_url", ""))):
        raise UsageError(
            f"{dataset} is no demo's dataset, whose records a demo would join; name another"
        )
    _forget(catalogue)
    with progress_of(ctx) as progress, Sandbox(installed_corpus(limit, troubles=False)) as sandbox:
        progress.say(f"a Zenodo of {len(sandbox.corpus)} installed packages at {sandbox.api_url}")
        _harvest(sandbox, catalogue, progress)
        options = ClusterOptions(dashboard="off", say=progress.say)
        open_client = partial(open_cluster, "local", workers, None, options)
        result = build_on(catalogue, dataset, on_cluster(open_client), progress=progress)
        downloads = sandbox.n_downloads
    print_result(result)
    _show(open_dataset(dataset))
    click.echo(
        f"{downloads} archives fetched over HTTP; done in {time.monotonic() - started:.0f} s. "
        f"Next: {_as_typed()} status {as_argument(str(dataset))}"
    )


def _as_typed() -> str:
    """Return the command as users can type it: with its path if it is not on the shell's."""
    if Path(sys.argv[0]).name == "__main__.py":
        return "python -m zml_dask"
    return "zml-dask" if shutil.which("zml-dask") else sys.argv[0]


def _harvest(sandbox: Sandbox, catalogue: Path, progress: BuildProgress) -> None:
    catalogue.parent.mkdir(parents=True, exist_ok=True)
    with HttpClient() as client:
        found = harvest(catalogue, HarvestOptions(api_url=sandbox.api_url), client)
    progress.say(f"harvested {number_of(record=found.written)} into {catalogue}")


def _forget(catalogue: Path) -> None:
    """Remove a former demo's catalogue, whose sandbox had another port; leave any other alone."""
    if not catalogue.exists():
        return
    state = load_state(catalogue)
    if state is None or not is_loopback(host_of(state.options.api_url)):
        raise UsageError(f"{catalogue} is no demo's catalogue; run the demo in another folder")
    Path(state_path(str(catalogue))).unlink()
    catalogue.unlink()


def _show(dataset: Dataset) -> None:
    """Print what is in the dataset by language, and one of its images."""
    languages = dataset.select("n_images > 0 and language is not null").counts("language")
    click.echo(
        "images by language: "
        + ", ".join(f"{name} {count:,}" for name, count in languages["images"].head(6).items())
    )
    example = dataset.select(_GOOD_EXAMPLE)
    if len(example):
        height = dataset.info.shape.height
        path = example.read("path", stop=1)["path"].iloc[0]
        click.echo(f"\n{escape_text(path)}, lines 1 to {height} as one image:\n")
        draw(example.images[0].compute(), Console())
        click.echo()
