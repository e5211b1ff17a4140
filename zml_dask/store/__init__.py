"""The dataset on disk: layout, staging, the commit, lazy reading, verification."""

# The two kinds of place that `Storage.open` knows.
from zml_dask.store import local_storage as local_storage
from zml_dask.store import object_storage as object_storage
