"""``python -m zml_dask`` is the command ``zml-dask``, of this interpreter's environment."""

from zml_dask.cli.main import main

if __name__ == "__main__":
    main()
