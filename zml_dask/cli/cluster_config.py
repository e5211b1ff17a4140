"""``zml-dask cluster-config``: the settings in force of a cluster configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from zml_dask.engine.clusters import ClusterOptions, job_name_of
from zml_dask.engine.clusters.jobqueue import job_script, job_settings
from zml_dask.engine.clusters.settings import OURS, Setting, dask_settings_of, resolve, sections_of
from zml_dask.text_safety import escape_lines, escape_text


@click.command("cluster-config")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--cluster", metavar="SECTION", help="This section alone, such as slurm-highmem.")
@click.option("--dataset", default="DATASET", metavar="DATASET", help="Names the jobs.")
def cluster_config_command(file: Path | None, cluster: str | None, dataset: str) -> None:
    """Print the settings in force of the cluster configuration FILE, and the job script.

    Each setting stands with the place that its value came from. Without FILE, it is what
    Dask finds by itself (DASK_CONFIG, ~/.config/dask). Nothing is submitted or changed.
    """
    options = ClusterOptions(config=file, job_name=job_name_of(dataset))
    for section in [cluster] if cluster else sections_of(options) if file else ["slurm"]:
        resolved = resolve(section, options)
        used = dict[str, Setting]()
        for name, value in job_settings(resolved, options).items():
            given = resolved.given.get(name)
            if value is not None:
                used[name] = given if given and given.value == value else Setting(value, OURS)
        # The prologue begins with the settings below; the job script shows all of it.
        used["job-script-prologue"] = resolved.given["job-script-prologue"]
        _print(f"jobqueue.{resolved.name}", used)
        _print("in the driver and its workers", dask_settings_of(options))
        click.echo(f"job script of --cluster {resolved.name}:\n")
        click.echo(escape_lines(job_script(resolved, options)))


def _print(title: str, settings: Mapping[str, Setting]) -> None:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("setting", "value", "from"):
        table.add_column(heading, overflow="fold")
    for name, setting in sorted(settings.items()):
        table.add_row(name, escape_text(str(setting.value)), escape_text(setting.source))
    console = Console(markup=False, highlight=False, soft_wrap=False)
    console.print(table)
    console.print()
