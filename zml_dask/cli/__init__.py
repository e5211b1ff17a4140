"""The command ``zml-dask``: one module a command."""
