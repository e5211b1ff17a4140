"""Counts, plots, the report, splits and the baseline classifier."""
