"""Sphinx configuration: MyST pages, numpydoc docstrings."""

from __future__ import annotations

from zml_dask import __version__

project = "zml_dask"
author = copyright = "The zml_dask developers"
version = release = __version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx_click",
    "sphinx_copybutton",
]
highlight_language = "text"  # of blocks that name none: layouts, not Python
html_theme = "furo"
html_favicon = "../zml_dask/publish/page/icon.svg"
html_title = f"zml_dask {release}"
exclude_patterns = ["_build"]
smartquotes_action = "qe"  # not the dashes of --help
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
copybutton_prompt_text = "$ "
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
