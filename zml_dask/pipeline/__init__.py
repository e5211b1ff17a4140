"""One record from reference to staging, and the jobs that build, update and import datasets."""
