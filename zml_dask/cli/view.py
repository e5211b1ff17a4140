"""``zml-dask view``: browse a dataset's images and their code."""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from zml_dask.errors import ZmlError
from zml_dask.publish.viewer import ViewerServer, export_page
from zml_dask.text_safety import escape_text


@click.command("view")
@click.argument("dataset", type=click.Path())
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="0 chooses a free one.")
@click.option("--browser/--no-browser", default=True, help="Open a browser or not.")
@click.option(
    "--export",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    help="Instead of serving, write the page here for any web host that answers ranges.",
)
@click.option("--data-url", help="URL at which the exported page finds DATASET.")
def command(
    dataset: str, port: int, browser: bool, directory: Path | None, data_url: str | None
) -> None:
    """Browse the images of DATASET and their code on a local page."""
    if directory is not None:
        page = export_page(dataset, directory, data_url)
        click.echo(f"{escape_text(str(page))}: the viewer; serve it together with the dataset")
        return
    with _serve(dataset, port) as server:
        click.echo(f"{server.url} shows {escape_text(dataset)}; stop with Ctrl-C")
        if browser:
            webbrowser.open(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            click.echo("stopped")


def _serve(dataset: str, port: int) -> ViewerServer:
    try:
        return ViewerServer(dataset, port)
    except OSError as error:
        raise ZmlError(
            f"port {port} of 127.0.0.1 cannot be used: {error.strerror}; take another with --port"
        ) from error
