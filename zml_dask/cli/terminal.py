"""What the commands need to print text that others wrote."""

from zml_dask.printable import printable, printable_lines

__all__ = ["printable", "printable_lines"]
