"""The files of the dataset's first edition (2018): written, read safely, imported."""
