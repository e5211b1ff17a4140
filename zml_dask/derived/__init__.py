"""Derived tables: columns computed from the files of a dataset, kept beside its own."""
