"""Asking a dataset: expressions, selections of rows, reading their chunks, batches, splits."""
