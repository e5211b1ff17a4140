"""Pickles of the time are read; hostile ones run nothing and say one clear thing."""

from __future__ import annotations

import collections
import copyreg
import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zml_dask.legacy.import_record import compact
from zml_dask.safe_pickle import (
    DamagedPickleError,
    ForbiddenPickleError,
    InertObject,
    load,
    within,
)


def loads(data: bytes) -> Any:
    return load(io.BytesIO(data))


PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner)
        | st.frozensets(st.integers()) | st.sets(st.text())
    ),
    max_leaves=20,
)  # fmt: skip


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_of_every_protocol(value: Any, protocol: int) -> None:
    assert loads(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(160, dtype=np.int64).reshape(2, 80),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(3, dtype=">u2"),
        np.zeros((0, 0), np.int64),
        np.array(["a", "bc"]),
        np.array([b"a", b"bc"]),
        np.array([True, False]),
        np.array(2.5, np.float32),
        np.arange(10)[::3],
    ],
)
def test_arrays_as_this_numpy_writes_them(array: Any, protocol: int) -> None:
    found = loads(pickle.dumps([array, array.dtype, array.reshape(-1)[:1].copy()], protocol))
    np.testing.assert_array_equal(found[0], array)
    assert found[0].dtype == pickle.loads(pickle.dumps(array, protocol)).dtype
    assert found[1] == array.dtype
    scalar = np.int64(-3)
    assert loads(pickle.dumps(scalar, protocol)) == scalar


def test_other_containers() -> None:
    ordered = collections.OrderedDict(b=1, a=[2])
    assert loads(pickle.dumps(ordered)) == ordered
    assert loads(pickle.dumps(bytearray(b"ab"))) == bytearray(b"ab")


def test_pickles_of_python_2_and_3_6(old_pickles: dict[str, bytes]) -> None:
    assert len(old_pickles) == 16
    for name, data in old_pickles.items():
        content = loads(data)
        if "images" in name:
            assert sorted(content) == ["owner-repo-1a2b3c4/Réadme", "owner-repo-1a2b3c4/src/a.py"]
            first, second = content["owner-repo-1a2b3c4/src/a.py"]
            assert (first.shape, first.dtype) == ((80, 80), np.dtype(np.int64))
            assert "".join(map(chr, second[0])).rstrip() == "é = €"
            assert content["owner-repo-1a2b3c4/Réadme"][1].shape == (0, 0)
        else:
            assert content["hit"]["metadata"]["title"] == "Tiéle"
            tree = content["tree"]
            assert isinstance(tree, InertObject)
            assert tree.class_name == "containertree.tree.files.ContainerFileTree"
            assert tree.state["count"] == 2
            assert tree.state["root"].state["children"][0].state["name"].endswith("Réadme")


def test_a_hook_shrinks_arrays_as_they_come() -> None:
    arrays = {str(n): [np.full((80, 80), n, np.int64)] for n in range(100)}
    data = pickle.dumps(arrays, 3)
    tracemalloc.start()
    small = load(io.BytesIO(data), on_array=lambda array: array.astype(np.uint8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert all((small[name][0] == arrays[name][0]).all() for name in arrays)
    assert small["3"][0].dtype == np.uint8
    assert peak < len(data) / 4


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_of_the_same_few_bytes_are_shrunk_each(protocol: int) -> None:
    """Python has one object for all empty bytes, which a pickle holds once for all of them."""
    small = [
        array
        for _ in range(3)
        for array in (np.zeros((0, 0), np.int64), np.full((1, 1), 97, np.uint8))
    ]
    found = load(io.BytesIO(pickle.dumps(small, protocol)), on_array=compact)
    assert [array.tolist() for array in found] == [[], [[97]]] * 3


class _Runs:
    """What unpickling would call, were it asked to."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


FORBIDDEN = {
    "a command": pickle.dumps(_Runs(os.system, "touch {mark}")),
    "a command, protocol 0": pickle.dumps(_Runs(os.system, "touch {mark}"), 0),
    "eval": pickle.dumps(_Runs(eval, "open('{mark}', 'w')")),
    "exec": pickle.dumps(_Runs(exec, "open('{mark}', 'w')")),
    "open": pickle.dumps(_Runs(open, "{mark}", "w")),
    "getattr": pickle.dumps(_Runs(getattr, (), "__class__")),
    "inside an array's list": pickle.dumps({"a.py": [_Runs(os.system, "touch {mark}")]}),
    "OBJ": b"(cos\nsystem\nS'touch {mark}'\no.",
    "INST": b"(S'touch {mark}'\nios\nsystem\n.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n(S'touch {mark}'\nt\x81.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch {mark}\x85R.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x15testing.runstring\x93(\x8c\x01xt\x85R.",
    "NumPy's own loaders": _global("numpy", "load") + b"(S'{mark}'\ntR.",
    "object arrays": pickle.dumps(np.array([1, "a"], object)),
    "records of fields": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "ctypes": _global("ctypes", "CDLL") + b"(S'x'\ntR.",
    "a class of builtins": _global("builtins", "type") + b".",
    "an extension": b"\x80\x02\x82\x01.",
    "a persistent id": b"Pabc\n.",
    "a binary persistent id": b"K\x01Q.",
    "state of a function": _global("_codecs", "encode") + b"}X\x01\x00\x00\x00aK\x01sb.",
    "slots of a class": _global("containertree", "X") + b"N}X\x04\x00\x00\x00nameK\x01s\x86b.",
    "calling data": b"\x80\x02K\x01)R.",
    "calling the array class": _global("numpy", "ndarray") + b"(K\x09tR.",
    "calling an inert object": _global("containertree", "X") + b")R)R.",
    "named arguments": _global("containertree", "X") + b")}X\x01\x00\x00\x00aK\x01s\x92.",
    "arguments in a list": _global("containertree", "X") + b"](K\x01eR.",
    "items of an array": pickle.dumps(np.arange(3))[:-1] + b"K\x00K\x01s.",
    "elements of a list": b"\x80\x04](K\x01\x90.",
    "an odd reconstruction": _global("copyreg", "_reconstructor") + _global("numpy", "ndarray")
    + _global("builtins", "object") + b"N\x87R.",
}  # fmt: skip


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_hostile_pickle_runs_nothing(name: str, tmp_path: Path) -> None:
    mark = tmp_path / "m"
    target = str(mark).encode()
    data = FORBIDDEN[name].replace(b"{mark}", target)
    with pytest.raises((ForbiddenPickleError, DamagedPickleError)) as error:
        load(io.BytesIO(data), name="x.pkl")
    assert not mark.exists()
    assert str(error.value).startswith("x.pkl ")
    assert "\n" not in str(error.value)


def test_an_extension_that_python_has_looked_up_before_is_refused_too() -> None:
    """Its registry keeps what was found, and would hand it out without asking anybody."""
    copyreg.add_extension("os", "system", 1)
    try:
        assert pickle.loads(b"\x80\x02\x82\x01.") is os.system
        with pytest.raises(ForbiddenPickleError, match="registry of extensions"):
            loads(b"\x80\x02\x82\x01.")
    finally:
        copyreg.remove_extension("os", "system", 1)


def test_the_state_of_a_constructor_is_not_changed() -> None:
    data = _global("_codecs", "encode") + b"}X\x01\x00\x00\x00aK\x01sb."
    with pytest.raises(ForbiddenPickleError, match="changes the state"):
        loads(data)


def test_bytes_that_are_announced_and_not_there_take_no_memory(tmp_path: Path) -> None:
    """Of a real file, which sets aside what is asked of it before it reads."""
    path = tmp_path / "x.pkl"
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**32) + b"abc")
    tracemalloc.start()
    with path.open("rb") as stream, pytest.raises(DamagedPickleError, match="are announced"):
        load(stream)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_what_is_asked_for_is_said_without_control_characters() -> None:
    with pytest.raises(ForbiddenPickleError, match=r"asks for os\.\\x1b\[31msystem, which"):
        loads(_global("os", "\x1b[31msystem") + b".")


def _nested(depth: int) -> bytes:
    """Opcodes of a tuple that holds another twice, and so on."""
    return b")" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(depth))


TUPLES_AS_KEYS = {
    "SETITEM": b"}" + _nested(20) + b"Ns.",
    "SETITEMS": b"}(K\x01N" + _nested(20) + b"Nu.",
    "DICT": b"(" + _nested(20) + b"Nd.",
    "ADDITEMS": b"\x8f(" + _nested(20) + b"\x90.",
    "FROZENSET": b"(" + _nested(20) + b"\x91.",
    "set": _global("builtins", "set") + b"](" + _nested(20) + b"e\x85R.",
    "frozenset": _global("builtins", "frozenset") + b"](" + _nested(20) + b"e\x85R.",
}


@pytest.mark.parametrize("how", TUPLES_AS_KEYS)
def test_a_key_whose_hash_would_take_for_ever_is_refused(how: str) -> None:
    with pytest.raises(ForbiddenPickleError, match="uses a tuple as a key"):
        loads(b"\x80\x04" + TUPLES_AS_KEYS[how])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_global("numpy", "dtype") + b"(" + _nested(20) + b"tR.", "dtype 'tuple' is not of plain"),
        (
            _global("numpy.core.multiarray", "_reconstruct")
            + _global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R("
            + _nested(20) + b"NNNNtb.",
            "of another pickle version",
        ),
    ],
)  # fmt: skip
def test_what_has_no_end_is_not_shown(data: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(DamagedPickleError, match=message):
        loads(b"\x80\x04" + data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20


def _named_again(make: bytes, times: int) -> bytes:
    """A list of what is made of one megabyte that the pickle holds once, at memo place 0."""
    megabyte = b"B" + struct.pack("<I", 2**20) + bytes(2**20) + b"q\x000"
    return b"\x80\x04" + megabyte + b"](" + make * times + b"e."


@pytest.mark.parametrize(
    "make",
    [
        _global("builtins", "bytearray") + b"h\x00\x85R",
        _global("builtins", "set") + b"h\x00\x85R",
        _global("numpy.core.numeric", "_frombuffer")
        + b"(" + _global("builtins", "bytearray") + b"h\x00\x85R"
        + _global("numpy", "dtype") + b"X\x02\x00\x00\x00u1\x85RJ\x00\x00\x10\x00\x85NtR",
        _global("numpy.core.multiarray", "_reconstruct")
        + _global("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R(K\x01J\x00\x00\x10\x00\x85"
        + _global("numpy", "dtype") + b"X\x02\x00\x00\x00u1\x85R\x89h\x00tb",
    ],
    ids=["bytearray", "set", "buffer", "array"],
)  # fmt: skip
def test_what_is_named_again_and_again_is_not_copied_each_time(make: bytes) -> None:
    assert len(loads(_named_again(make, 2))) == 2
    tracemalloc.start()
    with pytest.raises(DamagedPickleError, match="makes far more than it holds"):
        loads(_named_again(make, 60))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


def test_the_extent_of_what_was_read_has_a_bound() -> None:
    nested: list[Any] = ["x"]
    for _ in range(60):
        nested = [nested, nested]
    round_: dict[str, Any] = {}
    round_["again"] = (round_,)
    for data in (nested, {"a": (nested,)}, round_, ["x" * 1000] * 1000, {"x" * 1000: "y"}):
        assert not within(loads(pickle.dumps(data)), 1000)
    record = {"id": 7, "metadata": {"title": "t", "keywords": ["a", "b"], "notes": None}}
    assert within(record, 1000)


_ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01bt"
_DTYPE = b"cnumpy\ndtype\n(X\x02\x00\x00\x00i8K\x00K\x01tR\x89"

DAMAGED = {
    "nothing": b"",
    "no pickle": b"<html>",
    "no end": pickle.dumps([1, 2, 3])[:-1],
    "half an array": pickle.dumps(np.arange(1000))[:500],
    "a later protocol": b"\x80\x7fN.",
    "an empty stack": b"R.",
    "a memo that is not there": b"h\x05.",
    "bytes that are announced": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc.",
    "a bytearray that is announced": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text that is announced": b"X\xff\xff\xff\xffabc.",
    "a number that is announced": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a frame that is announced": b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"abc.",
    "a memo place far out": b"\x80\x02Nr\xff\xff\xff\xffj\xfe\xff\xff\xff.",
    "a long decimal": b"I" + b"9" * 100_000 + b"\n.",
    "more elements than bytes": _ARRAY + b"R(K\x01J\xff\xff\xff\x7f\x85" + _DTYPE + b"C\x01atb.",
    "rows without columns": _ARRAY + b"R(K\x01J\xff\xff\xff\x7fK\x00\x86" + _DTYPE + b"C\x00tb.",
    "a negative side": _ARRAY + b"R(K\x01J\xff\xff\xff\xff\x85" + _DTYPE + b"C\x08abcdefghtb.",
    "a dtype of nothing": b"cnumpy\ndtype\n(X\x02\x00\x00\x00S0K\x00K\x01tR.",
    "a dtype of objects": b"cnumpy\ndtype\n(X\x01\x00\x00\x00OK\x00K\x01tR.",
    "a list as elements": _ARRAY + b"R(K\x01K\x01\x85" + _DTYPE + b"](K\x01etb.",
    "a lot of zeros": _global("builtins", "bytes") + b"(J\xff\xff\xff\x7ftR.",
    "deeper than Python goes": b"(" * 100 + b"t" * 10_000 + b".",
    "an unhashable key": b"}]K\x01s.",
    "appending to a number": b"K\x01K\x02a.",
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_pickle_says_so_and_takes_no_memory(name: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DamagedPickleError, match=r"^the pickle cannot be read as a pickle: ."):
            loads(DAMAGED[name])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000


@given(st.binary(max_size=200))
def test_no_bytes_do_anything_else(data: bytes) -> None:
    try:
        loads(data)
    except (ForbiddenPickleError, DamagedPickleError):
        return


@given(st.data())
def test_no_changed_byte_does_anything_else(old_pickles: dict[str, bytes], data: Any) -> None:
    original = old_pickles[data.draw(st.sampled_from(sorted(old_pickles)))]
    changed = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        loads(bytes(changed))
    except (ForbiddenPickleError, DamagedPickleError):
        return
