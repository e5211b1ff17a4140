"""The dataset on disk: layout, staging, the commit, lazy reading, verification."""
