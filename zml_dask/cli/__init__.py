"""The command ``zml-dask``: commands that belong together share a module."""
