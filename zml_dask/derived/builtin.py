"""Built-in derived tables of single files: lines of code, generated and vendored files.

The kinds of generated and vendored files are those of linguist, GitHub's detector. The patterns
are our own, for what a dataset holds: the text as its images show it, cut at their width, and
the row of the file.

The code and the docstrings of the functions in `BUILT_IN` are part of their fingerprints: with
any change to them, existing tables are computed again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from zml_dask.derived.licenses import COLUMNS, LICENSE, license_detected
from zml_dask.learning.model import predict, shipped_bytes
from zml_dask.query.file_images import FileRow

_HASHES: Final = (
    "Python", "R", "Shell", "Perl", "Ruby", "Julia", "Makefile", "CMake", "YAML", "TOML",
    "Dockerfile", "Tcl", "Elixir", "Nix", "Nim", "Awk", "PowerShell", "Raku", "Crystal", "Starlark",
    "Meson", "Snakemake", "Gnuplot", "Cython", "AMPL", "Apollo Guidance Computer", "CoffeeScript",
    "Common Workflow Language", "GAP", "GDScript", "HCL", "QMake", "Tcsh", "fish", "Stan",
)  # fmt: skip
_SLASHES: Final = (
    "C", "C++", "Java", "JavaScript", "TypeScript", "TSX", "Go", "Rust", "C#", "Swift", "Kotlin",
    "Scala", "Dart", "Groovy", "PHP", "Cuda", "D", "Zig", "Objective-C", "Objective-C++", "OpenCL",
    "GLSL", "HLSL", "Verilog", "SystemVerilog", "Solidity", "Less", "SCSS", "ActionScript",
    "Chapel", "Hack", "Metal", "Modelica", "Nextflow", "Odin", "Reason", "Scilab", "ShaderLab",
    "Slice", "Stata", "SWIG", "Lex", "Yacc", "Protocol Buffer", "GDShader",
)  # fmt: skip
_SEMICOLONS: Final = (
    "Common Lisp", "Emacs Lisp", "Scheme", "Clojure", "Racket", "INI", "IDL", "LFE", "NCL",
    "NetLogo", "NewLisp", "Tree-sitter Query",
)  # fmt: skip
_LINE_COMMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(_HASHES, ("#",)),
    **dict.fromkeys(_SLASHES, ("//",)),
    **dict.fromkeys(_SEMICOLONS, (";",)),
    **dict.fromkeys(("MATLAB", "TeX", "Erlang", "Prolog", "PostScript", "Mercury"), ("%",)),
    **dict.fromkeys(("Fortran", "Fortran Free Form"), ("!",)),
    **dict.fromkeys(
        ("Haskell", "Lua", "SQL", "Ada", "VHDL", "Elm", "PLSQL", "Agda", "Lean", "Lean 4", "Idris"),
        ("--",),
    ),
    **dict.fromkeys(("BASIC", "VBA", "VBScript", "Visual Basic .NET", "Visual Basic 6.0"), ("'",)),
    **dict.fromkeys(("Assembly", "Unix Assembly"), (";", "#", "//", "@")),
    **dict.fromkeys(("M4", "M4Sugar"), ("dnl ", "#")),
    "APL": ("⍝",),
    "Batchfile": ("::", "REM ", "rem "),
    "F#": ("//",),
    "Pascal": ("//",),
    "PHP": ("//", "#"),
    **dict.fromkeys(("SAS", "SPSS"), ("*",)),
    "Stata": ("*", "//"),
    "Vim script": ('"',),
}
_COLUMN_COMMENTS: Final[Mapping[str, re.Pattern[str]]] = {
    "COBOL": re.compile(r".{6}[*/]|\s*\*>"),
    # In fixed form; in free form a line may begin with a statement.
    "Fortran": re.compile(
        r"\*|c(?!(all|ase|haracter|lass|lose|ommon|omplex|ontains|ontinue|ycle)\b)", re.IGNORECASE
    ),
    "GAMS": re.compile(r"\*"),
}
"""Comments by their place in the line."""
_BLOCKS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    **dict.fromkeys(
        (*_SLASHES, "CSS", "SQL", "Assembly", "Unix Assembly", "Prolog", "SAS", "SPSS"),
        (("/*", "*/"),),
    ),
    **dict.fromkeys(("HTML", "XML", "SVG", "Markdown", "Vue", "XSLT"), (("<!--", "-->"),)),
    **dict.fromkeys(("Haskell", "Elm", "Agda", "Idris"), (("{-", "-}"),)),
    **dict.fromkeys(
        ("OCaml", "Standard ML", "Rocq Prover", "Wolfram Language", "F#", "Isabelle", "Modula-2"),
        (("(*", "*)"),),
    ),
    **dict.fromkeys(("Lean", "Lean 4"), (("/-", "-/"),)),
    "Pascal": (("{", "}"), ("(*", "*)")),
}


def lines_of_code(text: str, row: FileRow) -> dict[str, int]:
    r"""Count the lines of a file that hold code, comments alone, or nothing.

    A line counts as a comment where it begins as one, or lies in a block of them. In languages
    that are not known here, every line that holds something is code. Where a line of a block was
    cut, the block goes on only if its end comes before another block begins.
    """
    language = row.language or ""
    marks = _LINE_COMMENTS.get(language, ())
    column = _COLUMN_COMMENTS.get(language)
    blocks = _BLOCKS.get(language, ())
    counts = {"code": 0, "comment": 0, "blank": 0}
    lines = text.split("\n")[:-1]
    width = max(map(len, lines), default=0) if row.n_cut else 0
    ends = {block: _is_end_next(lines, *block) if width else [] for block in blocks}
    block: tuple[str, str] | None = None
    for i, line in enumerate(lines):
        bare = line.strip()
        if not bare:
            counts["blank"] += 1
            continue
        opens = block is None
        if block is None:
            block = next((block for block in blocks if bare.startswith(block[0])), None)
            if block is None:
                is_comment = (bool(marks) and bare.startswith(marks)) or (
                    column is not None and column.match(line) is not None
                )
                counts["comment" if is_comment else "code"] += 1
                continue
        begin, end = block
        inside = bare.removeprefix(begin) if opens else bare
        rest = inside.rpartition(end)[2].strip() if end in inside else ""
        opens_again = rest.startswith(begin)
        counts["code" if opens and rest and not opens_again else "comment"] += 1
        is_cut = 0 < width <= len(line) + 1
        if (end in inside and not opens_again) or (is_cut and not ends[block][i]):
            block = None
    return counts


def _is_end_next(lines: list[str], begin: str, end: str) -> list[bool]:
    """Tell for every line whether of a block's marks after it the end comes first."""
    found = [False] * len(lines)
    is_end = False
    for i in range(len(lines) - 1, -1, -1):
        found[i] = is_end
        first_begin, first_end = lines[i].find(begin), lines[i].find(end)
        if first_begin >= 0 or first_end >= 0:
            is_end = first_end >= 0 and not 0 <= first_begin < first_end
    return found


_Rules = tuple[tuple[str, re.Pattern[str]], ...]


def _rules(rules: Mapping[str, str], flags: int = 0) -> _Rules:
    return tuple((name, re.compile(pattern, flags)) for name, pattern in rules.items())


_GENERATED_PATHS: Final = _rules(
    {
        "lock file": r"(^|/)(package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|"
        r"bun\.lock|composer\.lock|Cargo\.lock|Pipfile\.lock|poetry\.lock|pdm\.lock|uv\.lock|"
        r"pixi\.lock|Gemfile\.lock|Gopkg\.lock|glide\.lock|flake\.lock|deno\.lock|mix\.lock|"
        r"\.terraform\.lock\.hcl|MODULE\.bazel\.lock)$",
        "protocol buffers": r"(_pb2(_grpc)?\.pyi?|\.pb(\.gw)?\.go|\.pb\.(cc|h)|_pb\.(js|d\.ts|rb)|"
        r"\.grpc\.pb\.(cc|h))$",
        "designer": r"(?i)(\.designer\.(cs|vb)|\.feature\.cs|\.xcworkspacedata|\.xcuserstate|"
        r"\.nib|\.storyboardc|/project\.pbxproj)$",
        "source map": r"(?i)\.(js|css)\.map$",
        "minified": r"(?i)[.-]min\.(js|mjs|css)$",
        "bundle": r"(^|/)\.pnp\.c?js$|(^|/)\.yarn/(releases|plugins)/",
        "wrapper": r"(^|/)(gradlew|gradlew\.bat|mvnw|mvnw\.cmd)$",
        "snapshot": r"(^|/)__snapshots__/|\.snap$",
        "autotools": r"(^|/)(aclocal\.m4|config\.h\.in|Makefile\.in|ltmain\.sh|libtool\.m4)$",
        "parser": r"(^|/)(parser\.out|y\.tab\.[ch]|lex\.yy\.c)$",
    }
)
_GENERATED_TEXTS: Final = _rules(
    {
        "says so": r"(?i)@generated\b|\bdo not (edit|modify)\b.{0,60}\bgenerated\b|"
        r"\b(auto-?)?generated\b[\s\S]{0,120}\b(do not|don't) (edit|modify|change)\b",
        "automatic": r"\b(automatically|auto-?)[ ]?(generated|created) (by|from|with|using)\b|"
        r"\b(was|is|been) (automatically|auto-?) ?generated\b|<auto-?generated",
        "protocol buffers": r"Generated by the (protocol buffer|gRPC)|protoc-gen-",
        "thrift": r"Autogenerated by Thrift",
        "cython": r"Generated by Cython \d",
        "swig": r"automatically generated by SWIG|generated by SWIG",
        "parser": r"A Bison parser, made by|A lexical scanner generated by flex|"
        r"Generated (from .{1,80} )?by (ANTLR|JavaCC|PEG\.js|Ragel|re2c|jison|Lemon)|"
        r"generated by (PLY|Haskell|ocamlyacc|Menhir|racc|Happy|JFlex)",
        "autotools": r"generated (automatically )?by (GNU Autoconf|automake|aclocal|autoheader)|"
        r"Generated (from \S+ )?by (GNU )?[Aa]uto(conf|make|header)",
        "roxygen": r"% Generated by roxygen2|# Generated by roxygen2",
        "documentation": r"<meta name=.generator. content=.(Doxygen|Docutils|Sphinx|pandoc|"
        r"Hugo|Jekyll|org mode)|Generated by (javadoc|Doxygen|jsdoc|YARD|ldoc|pdoc|epydoc)|"
        r"<!-- Generated by",
        "decompiler": r"JD-Core Version:|Decompiled (by|with)|COMPILED BY|Created by Rcpp|"
        r"Generated by using Rcpp",
        "coffee": r"Generated by CoffeeScript|Generated by Haxe|Compiled by .{1,40} transpiler",
        "qt": r"Created by: The (Qt )?(Meta Object|Resource) Compiler|"
        r"Form implementation generated from reading ui file|"
        r"Created by: (The )?Resource Compiler for PyQt|Qt User Interface Compiler",
    }
)
_HEAD: Final = 2_000
"""Characters at the beginning of a file that are searched."""
_MINIFIABLE: Final = frozenset({"js", "mjs", "cjs", "css"})
_MINIFIED_LINE: Final = 110
"""Mean bytes per line above which JavaScript and CSS are minified, as in linguist."""


def is_generated(text: str, row: FileRow) -> dict[str, Any]:
    """Tell whether a program wrote a file: by its path, its beginning, or its long lines."""
    rule = _first(_GENERATED_PATHS, row.path) or _first(_GENERATED_TEXTS, text[:_HEAD])
    if rule is None and row.extension.lower() in _MINIFIABLE and row.size:
        if row.size / max(row.n_lines, 1) > _MINIFIED_LINE:
            rule = "minified"
        elif "\n//# sourceMappingURL=" in text[-400:] or "\n/*# sourceMappingURL=" in text[-400:]:
            rule = "source map"
    return {"value": rule is not None, "rule": rule}


_VENDORED_PATHS: Final = _rules(
    {
        "folder": r"(^|/)(node_modules|bower_components|jspm_packages|vendors?|_vendor|extlibs?|"
        r"externals?|third[-_]?part(y|ies)|3rd[-_]?part(y|ies)|Godeps/_workspace|"
        r"Carthage|Pods|site-packages|_?dependencies|deps|"
        r"packrat|renv/library|\.bundle|\.gems)/",
        "cache": r"(^|/)(cache|\.cache|__pycache__|\.ipynb_checkpoints)/",
        "build": r"(^|/)dist/",
        "editor": r"(^|/)(\.vscode|\.idea|\.vs|\.settings|nbproject|\.sublime[^/]*)/",
        "service": r"(^|/)(\.github|\.gitlab|\.circleci|\.devcontainer)/|"
        r"(^|/)\.(gitignore|gitattributes|gitmodules)$",
        "documentation theme": r"(^|/)_static/(underscore|jquery|doctools|searchtools|"
        r"language_data|sphinx_highlight|basic|pygments)[^/]*\.(js|css)$|"
        r"(^|/)_?(javadocs?|doxygen|apidocs?)/",
        "minified": r"(?i)[.-]min\.(js|mjs|css)$",
        "library": r"(?i)(^|/)(jquery([.-]ui)?|bootstrap|prototype|mootools|dojo|yui|ext-all|"
        r"backbone|underscore|lodash|angular|ember|react(-dom)?|vue|d3|three|modernizr|require|"
        r"raphael|mathjax|leaflet|handlebars|mustache|normalize|font-?awesome|animate|foundation|"
        r"select2|codemirror|ckeditor|tinymce|shim-?sham|html5shiv|respond|es5-shim|less|moment|"
        r"chart|highlight|prettify|knockout|socket\.io|swfobject|bulma|pure|materialize)"
        r"([.-](\d[\w.-]*|min|bundle|slim|core|all|debug|esm|umd|pack|custom|grid|reboot))*"
        r"\.(js|mjs|css|scss|less)$",
        "font or icons": r"(?i)(^|/)(fontello|iconfont|glyphicons?)[^/]*\.(css|svg|json)$",
        "autotools": r"(^|/)(configure|config\.(guess|sub|rpath)|aclocal\.m4|libtool\.m4|"
        r"lt(options|sugar|version|~obsolete)\.m4|ltmain\.sh|install-sh|missing|depcomp|compile|"
        r"mkinstalldirs|py-compile|ylwrap|test-driver|texinfo\.tex|ar-lib|mdate-sh)$",
        "wrapper": r"(^|/)(gradlew(\.bat)?|mvnw(\.cmd)?|\.mvn/wrapper/.*|gradle/wrapper/.*|"
        r"ez_setup\.py|distribute_setup\.py|versioneer\.py|waf|bootstrap-buildout\.py|fabfile\.py)$",
        "single file library": r"(?i)(^|/)(sqlite3(ext)?\.[ch]|stb_\w+\.h|catch(2)?\.hpp|"
        r"catch_amalgamated\.[ch]pp|doctest\.h|json\.hpp|miniz\.[ch]|lodepng\.(cpp|h)|"
        r"tinyxml2\.(cpp|h)|rapidxml[^/]*\.hpp|cJSON\.[ch]|uthash\.h|gtest-all\.cc|httplib\.h)$",
        "test data of a tool": r"(^|/)(vcr_cassettes|fixtures/vcr)/|(^|/)cassettes/.*\.ya?ml$",
        "framework": r"(^|/)(Eigen/src|boost/(?!test)|gmock/|gtest/|googletest/|pybind11/include|"
        r"eigen3?/Eigen)/?|\.(framework|xcframework)/",
    }
)


def is_vendored(row: FileRow) -> dict[str, Any]:
    """Tell by its path whether a file came from elsewhere: a library, or what a tool put there."""
    rule = _first(_VENDORED_PATHS, row.path)
    return {"value": rule is not None, "rule": rule}


def _first(rules: _Rules, text: str) -> str | None:
    return next((name for name, pattern in rules if pattern.search(text)), None)


def _predicted_language(_model: str, images: NDArray[np.uint32]) -> dict[str, Any] | None:
    """Name the language of a file from its images alone; see `predict`."""
    if not (images > ord(" ")).any():
        return None
    found = predict(images)
    return {"value": found.language, "confidence": found.confidence}


def by_model(data: bytes) -> partial[dict[str, Any] | None]:
    """Make the model's bytes part of the fingerprint, so that another model computes anew."""
    return partial(_predicted_language, hashlib.sha256(data).hexdigest())


predicted_language: Final = by_model(shipped_bytes())

_JUDGEMENT: Final = {"value": "bool", "rule": "string"}

BUILT_IN: Final[Mapping[str, tuple[Callable[..., Any], Mapping[str, str]]]] = {
    "lines_of_code": (lines_of_code, {"code": "int32", "comment": "int32", "blank": "int32"}),
    "is_generated": (is_generated, _JUDGEMENT),
    "is_vendored": (is_vendored, _JUDGEMENT),
    LICENSE: (license_detected, COLUMNS),
    "predicted_language": (predicted_language, {"value": "string", "confidence": "float"}),
}
"""Names of tables, with their functions and columns."""
