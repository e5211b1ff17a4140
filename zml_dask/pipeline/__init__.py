"""One record from reference to staging, and the Dask bag that does so for all."""
