"""The command ``zml-dask``: one module per command."""
