"""``zml-dask learn``: test how well languages can be predicted, and train a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from zml_dask.errors import require
from zml_dask.learning.evaluation import LearnOptions, learn
from zml_dask.learning.evaluation import held_out as score_held_out
from zml_dask.learning.network import NetworkOptions
from zml_dask.learning.samples import SampleOptions
from zml_dask.query.dataset import open_dataset


@click.command("learn")
@click.argument("dataset", type=click.Path())
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all random choices.")
@click.option(
    "--pages",
    type=click.IntRange(10),
    default=LearnOptions().train_pages,
    show_default=True,
    help="Most pages of each language to learn from in each fold.",
)
@click.option(
    "--families",
    type=click.IntRange(2),
    default=SampleOptions().min_families,
    show_default=True,
    help="Leave out languages that occur in fewer concepts.",
)
@click.option(
    "--magika",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="PAGES",
    help="Also have Magika name this many pages per language and fold.",
)
@click.option(
    "--network",
    is_flag=True,
    help="Also compare a neural network on programming languages; needs PyTorch.",
)
@click.option("--held-out", type=click.Path(), help="Another dataset to test the final model on.")
@click.pass_context
def learn_command(
    ctx: click.Context,
    dataset: str,
    directory: Path,
    seed: int,
    pages: int,
    families: int,
    magika: int,
    network: bool,
    held_out: str | None,
) -> None:
    """Learn the languages of DATASET's images; write results and the model into DIRECTORY.

    Each page is named by models that saw no file of its concept, in three folds. Written are
    results.json (scores of each model, with intervals, and what code tells of licence, keyword
    and year) and languages.npz, a model learnt from all.
    """
    if magika:
        require("magika", "magika", "--magika")
    if network:
        require("torch", "ml", "--network")
    options = LearnOptions(
        SampleOptions(pages_a_label=3 * pages, min_families=families, seed=seed),
        train_pages=pages,
        magika=magika,
        network=NetworkOptions() if network else None,
    )
    quiet = (ctx.obj or {}).get("quiet", False)
    results, model = learn(
        open_dataset(dataset),
        options,
        lambda line: click.echo(line, err=True) if not quiet else None,
    )
    if held_out:
        results["held_out"] = score_held_out(open_dataset(held_out), model, options)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (directory / "languages.npz").write_bytes(model.to_bytes())
    for task, found in results["tasks"].items():
        click.echo(f"{task}: {len(found['labels'])} languages and kinds of text")
        for name, scores in found["models"].items():
            click.echo(f"  {name:44} {_shown(scores)}")
    if held_out:
        click.echo(f"held out: {_shown(results['held_out'])}")
    for one in results["association"]:
        shown = ", ".join(f"from {name} {score:.2f}" for name, score in one["scores"].items())
        click.echo(f"{one['target']}: {shown} (chance under {one['chance']:.2f})")


def _shown(scores: dict[str, Any]) -> str:
    shown = f"accuracy {scores['accuracy']:.1%}"
    if "accuracy_interval" in scores:
        low, high = scores["accuracy_interval"]
        shown += f" [{low:.1%}, {high:.1%}]"
    return shown + (f"  recall {scores['recall']:.1%}" if "recall" in scores else "")
