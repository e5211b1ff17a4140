"""Names, extensions, interpreters and content: what a file is called decides, unless it cannot."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.errors import UsageError
from zml_dask.raster import language
from zml_dask.raster.language import HEAD_BYTES, Identity, identify

KINDS = {"programming", "markup", "data", "prose", None}


@pytest.mark.parametrize(
    ("path", "head", "expected"),
    [
        ("a/b/c.py", b"", "Python"),
        ("c.PY", b"", "Python"),
        ("man/fit.Rd", b"", "R Documentation"),
        ("R/fit.R", b"", "R"),
        ("x.blade.php", b"", "Blade"),
        ("a.f90", b"", "Fortran Free Form"),
        ("Makefile", b"", "Makefile"),
        ("deep/Dockerfile", b"", "Dockerfile"),
        ("README", b"", "Text"),
        ("src/readme", b"", "Text"),
        ("Changelog", b"", "Text"),
        ("README.md", b"# Hello\n", "Markdown"),
        (".gitignore", b"", "Ignore List"),
        ("a.h", b"int f(int);\n", "C"),
        ("a.h", b"class A {\n public:\n};\n", "C++"),
        ("a.h", b"@interface A : NSObject\n@end\n", "Objective-C"),
        ("a.m", b"% plots\nx = 1;\n", "MATLAB"),
        ("a.m", b"x = 1;\n", "MATLAB"),
        ("a.m", b'#import "A.h"\n', "Objective-C"),
        ("a.pl", b"use strict;\nmy $x = 1;\n", "Perl"),
        ("a.pl", b":- module(a, [b/1]).\nb(X) :- c(X).\n", "Prolog"),
        ("a.pl", b"#!/usr/bin/env swipl\n", "Prolog"),
        ("a.r", b"x <- function(a) a\n", "R"),
        ("a.r", b"REBOL [Title: {x}]\n", "Rebol"),
        ("a.ts", b"export const a = 1;\n", "TypeScript"),
        ("a.ts", b'<?xml version="1.0"?><TS version="2.0"/>\n', "XML"),
        ("a.v", b"(* Copyright *)\n(** * Lists *)\nRequire List.\n", "Rocq Prover"),
        ("a.v", b"From mathcomp Require all_ssreflect.\n", "Rocq Prover"),
        ("a.v", b"Local Definition two : nat := 2.\n", "Rocq Prover"),
        ("a.v", b"#[export] Instance a : B nat := c.\n", "Rocq Prover"),
        ("a.v", b"Fixpoint add (n m : nat)\n  {struct n} : nat :=\n", "Rocq Prover"),
        ("a.v", b"Set Implicit Arguments.\nSection lists.\n", "Rocq Prover"),
        ("a.v", b"(***********\n * A header of 4,096 bytes\n", "Rocq Prover"),
        ("a.v", b"(* keep *)\nmodule top;\nendmodule\n", "Verilog"),
        ("a.v", b"(* blackbox *) module b;\nendmodule\n", "Verilog"),
        ("a.v", b"/*\n Module Name: adder\n Set the clock.\n*/\nmodule adder;\n", "Verilog"),
        ("a.v", b"// netlist\nwire a;\nassign a = b;\n", "Verilog"),
        ("a.v", b"module main\n\nfn main() {\n    println('x')\n}\n", "V"),
        ("a.v", b"module math\n\nimport strconv\n\npub const e = 2.7\n", "V"),
        ("a.v", b"module math\n\nstruct Point {\nmut:\n    x int\n}\n", "V"),
        ("a.v", b"", "Verilog"),
        ("run", b"#!/bin/sh\n", "Shell"),
        ("run", b"#! /usr/bin/env -S python3.11 -u\n", "Python"),
        ("run", b"#!/usr/bin/perl -w\n", "Perl"),
        ("run", b"#!/opt/nobody-knows\n", None),
        ("run", b"#!", None),
        ("run", b"#!/sbin/openrc-run\n", "OpenRC runscript"),
        ("run", b"#!/usr/local/bin/wish-8.6\n", "Tcl"),
        ("run", b'#!/bin/sh\n# \\\nexec tclsh8.6 "$0" ${1+"$@"}\n', "Tcl"),
        ("run", b'#!/bin/sh\nexec java -jar "$0" "$@"\n', "Shell"),
        ("run", b'#!/bin/sh\nexec "$dir/python" "$0"\n', "Shell"),
        ("a.ts", b"#!/usr/bin/env node\nlet a: number = 1;\n", "TypeScript"),
        ("a.t", b"#!/usr/bin/env python3\n", "Python"),
        ("a.gdshader", b"", "GDShader"),
        ("a.nb", b"(* Content-type: application/vnd.wolfram.mathematica *)\n", "Wolfram Language"),
        ("a.msg", b"Header header\nfloat64[] effort\n", "ROS Interface"),
        ("a.fpp", b"C     nothing\n", "Fortran"),
        ("a.sps", b"* Tables.\nCTABLES /TABLE v101.\n", "SPSS"),
        ("a.sps", b"* (see below).\nget file='a.sav'.\n", "SPSS"),
        ("a.sps", b"#!r6rs\n", "Scheme"),
        ("a.sps", b";; a test\n(import (rnrs))\n", "Scheme"),
        ("a.pro", b";+\n; NAME: F\n;-\nfunction f, a, B = b, $\n  c = c\n", "IDL"),
        ("a.pro", b"QT += core gui\nTARGET = a\n", "QMake"),
        ("a.p", b"(dp0\nS'B'\np1\nF-1.5\ns.", "Pickle"),
        ("a.p", b"set terminal png\n", "Gnuplot"),
        ("a.inc", b"c     sizes\n      integer n\n      parameter (n = 3)\n", "Fortran"),
        ("a.inc", b"<?php\n$a = 1;\n", "PHP"),
        ("a.bst", b"% a long header\n", "BibTeX Style"),
        ("data", b'<?xml version="1.0"?>\n', "XML"),
        ("a.unheard-of", b"words\n", None),
        ("a.png", b"", None),
        ("", b"", None),
    ],
)
def test_identify(path: str, head: bytes, expected: str | None) -> None:
    assert identify(path, head).language == expected


def test_kinds() -> None:
    found = {identify(name, b"").kind for name in ("a.py", "a.html", "a.json", "a.rst", "a.zzz")}
    assert found == KINDS


@given(st.text(max_size=40), st.binary(max_size=300))
def test_any_name_and_any_bytes_have_an_answer(path: str, head: bytes) -> None:
    found = identify(path, head)
    assert isinstance(found, Identity)
    assert found.kind in KINDS
    assert (found.language is None) == (found.kind is None)
    assert identify("elsewhere/" + path, head) == found


def test_only_the_head_is_looked_at() -> None:
    late = b"int x;\n" * HEAD_BYTES + b"class A {\npublic:\n};\n"
    assert identify("a.h", late).language == "C"


@pytest.mark.parametrize("unit", [b"\n", b" \n", b" ", b"\x0c", b"a", b"_", b"a\n", b"( ", b"/*"])
def test_no_page_of_anything_holds_a_worker_up(unit: bytes) -> None:
    """A page of newlines took one of linguist's rules 51 seconds; the processor's time is bound."""
    head = (unit * HEAD_BYTES)[:HEAD_BYTES]
    for extension in language._tables()["rules"]:
        identify("a" + extension, head)  # compiles the rules
        start = time.thread_time()
        identify("a" + extension, head)
        assert time.thread_time() - start < 5, extension


def test_magika_names_by_content_and_falls_back_to_the_name() -> None:
    pytest.importorskip("magika")
    from zml_dask.raster.language import identify_with_magika

    code = (
        b"import os\n\n\ndef main(argv):\n    for name in argv:\n        print(os.stat(name))\n" * 9
    )
    assert identify_with_magika("no-such.extension", code).language == "Python"
    assert identify_with_magika("a.f90", b"").language == "Fortran Free Form"
    assert identify_with_magika("LICENSE", b"You may do as you like.\n" * 9).language == "Text"
    assert identify_with_magika("a.h", b"int x;\n").language == "C"


def test_a_missing_magika_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from zml_dask.raster import language

    monkeypatch.setitem(sys.modules, "magika", None)
    language.magika.cache_clear()
    with pytest.raises(UsageError, match=r"zml-dask\[magika\]"):
        language.identify_with_magika("a.py", b"x = 1\n")


def test_a_build_names_languages_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("magika")
    from zml_dask.fetch.member import Member
    from zml_dask.pipeline.build_options import BuildOptions
    from zml_dask.pipeline.process import read_member
    from zml_dask.raster import language

    code = b"import os\n\ndef main(argv):\n    for a in argv:\n        print(os.stat(a))\n" * 9
    named = []
    for way in ("linguist", "magika"):
        member = Member("a.unheard-of", len(code), code, "ok", None)
        identifier = language.IDENTIFIERS[BuildOptions(language=way).language]
        file, _ = read_member(member, width=80, keep_binary=False, identify=identifier)
        named.append(file.language)
    assert named == [None, "Python"]
    with pytest.raises(UsageError, match="choose from linguist, magika"):
        BuildOptions(language="guess")
    monkeypatch.setattr("zml_dask.errors.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"zml-dask\[magika\]"):
        BuildOptions(language="magika")
