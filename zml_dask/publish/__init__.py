"""Exports of a dataset: Parquet, WebDataset, PNG, squashfs, Croissant, the viewer."""
