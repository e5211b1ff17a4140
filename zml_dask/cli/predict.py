"""``zml-dask predict``: the language of files, by their content alone."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from zml_dask.errors import ZmlError
from zml_dask.learning.model import explain, predict
from zml_dask.raster.text import normalize_text
from zml_dask.text_safety import escape_text

_MOST_WORDS = 8


@click.command("predict")
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--why", is_flag=True, help="Show the words that count most for the language.")
def predict_command(files: tuple[str, ...], why: bool) -> None:
    """Tell which language each of FILES is written in, from its content alone.

    FILE may be - for standard input. Printed are the language, how likely it is, and the next
    likeliest. Names and extensions are not looked at.
    """
    failed = False
    for name in files:
        try:
            data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
            text = normalize_text(data).text.decode("utf-8", "surrogatepass")
            found = predict(text)
        except (OSError, ZmlError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            click.echo(f"{escape_text(name)}: {escape_text(str(reason))}", err=True)
            failed = True
            continue
        second, chance = list(found.probabilities.items())[1]
        named = f"{found.language} {found.confidence:.0%} (then {second} {chance:.0%})"
        click.echo(f"{escape_text(name)}: {named}")
        if why:
            words = explain(text, found.language).groupby("word")["contribution"].sum()
            telling = words.sort_values(ascending=False).head(_MOST_WORDS)
            shown = ", ".join(
                f"{escape_text(str(word))} {score:+.2f}" for word, score in telling.items()
            )
            click.echo(f"  {shown}")
    if failed:
        sys.exit(1)
