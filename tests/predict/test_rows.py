"""Rows in: what is read as it is, and what is refused with the row and the reason. No model is run here."""

import sys
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from probinfer import PredictionError
from probinfer.predict import rows
from probinfer.predict.families import NORMAL
from probinfer.predict.program import Input, Program
from probinfer.predict.rows import content_hashes, read_rows

PROGRAM = Program(
    outcome="y",
    family=NORMAL,
    inputs=(Input("x", "float64"), Input("g", "int64", (), 0, 4), Input("V", "float64", (3,)), Input("on", "bool")),
    draws={"a": np.zeros(2)},
    chains=None,
    fixed={"knots": np.arange(3.0)},
    constants={"J": 5, "flag": True, "extra": None},
    row_counts=(),
    unread=("y",),
    event=(),
    discrete=False,
    probabilities=0,
    programs={},
)
ROWS = {"x": [1.0, 2.0], "g": [0, 4], "V": [[1, 2, 3], [4, 5, 6]], "on": [True, False]}
FRAME = pd.DataFrame(
    {
        "V[2]": [3, 6],
        "g": [0, 4],
        "ignored": ["a", "b"],
        "V[0]": [1, 4],
        "on": [True, False],
        "x": [1.0, 2.0],
        "V[1]": [2, 5],
    }
)


def test_rows_that_need_no_reading_are_read_all_the_same_when_something_is_wrong():
    """A dict of finite float64 arrays or lists takes a short way; whatever is not quite that takes the long one."""
    plain = replace(PROGRAM, inputs=(PROGRAM.inputs[0], PROGRAM.inputs[2]))
    x, V = np.array([1.0, 2.0]), np.arange(6.0).reshape(2, 3)
    assert rows._ready({"x": x, "V": V}, plain) is not None
    wrong = [
        {"x": np.array([1.0, np.nan]), "V": V},
        {"x": np.array([1.0, -np.inf]), "V": V},
        {"x": x, "V": V[:1]},
        {"x": x, "V": V[:, :2]},
        {"x": x, "z": V},
    ]
    for given in wrong:
        with pytest.raises(PredictionError):
            read_rows(given, plain)
    short, count = read_rows({"x": x, "V": V}, plain)
    for given in ({"x": (1, 2), "V": V.tolist()}, {"x": x.astype(np.float32), "V": V}, {"x": x, "V": V, "J": 5}):
        assert rows._ready(given, plain) is None
        long, number = read_rows(given, plain)
        assert number == count == 2
        for name in long:
            np.testing.assert_array_equal(long[name], short[name])


def same(columns):
    np.testing.assert_array_equal(columns["x"], [1.0, 2.0])
    np.testing.assert_array_equal(columns["g"], [0, 4])
    np.testing.assert_array_equal(columns["V"], [[1, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(columns["on"], [True, False])
    assert [columns[n].dtype.name for n in ("x", "g", "V", "on")] == ["float64", "int64", "float64", "bool"]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        {name: np.asarray(values) for name, values in ROWS.items()},
        {**ROWS, "y": [9.0, 9.0], "J": 5, "flag": True, "extra": None, "knots": [0, 1, 2]},
        {"x": np.float32([1, 2]), "g": [0.0, 4.0], "V": np.array(ROWS["V"], np.int8), "on": [1, 0]},
        {k: FRAME[k].tolist() for k in FRAME if k != "ignored"},
        FRAME,
        FRAME.convert_dtypes(),
        pa.Table.from_pandas(FRAME),
        pa.RecordBatch.from_pandas(FRAME),
        FRAME.astype({"x": object, "g": object}),
    ],
    ids=[
        "lists",
        "arrays",
        "with what is known",
        "other types",
        "columns",
        "frame",
        "nullable",
        "table",
        "batch",
        "objects",
    ],
)
def test_the_same_rows_in_many_forms(rows):
    columns, count = read_rows(rows, PROGRAM)
    assert count == 2
    same(columns)


def test_one_row_and_no_rows():
    columns, count = read_rows({"x": 1.0, "g": np.int64(3), "V": [1, 2, 3], "on": True}, PROGRAM)
    assert count == 1
    assert columns["V"].shape == (1, 3)
    for nothing in ({name: [] for name in ROWS}, FRAME[:0], pa.Table.from_pandas(FRAME[:0])):
        columns, count = read_rows(nothing, PROGRAM)
        assert count == 0
        assert columns["V"].shape == (0, 3)


def changed(name, value):
    return {**ROWS, name: value}


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([1, 2], "rows came as list; wanted a dict of arrays"),
        ({"x": [1.0, 2.0]}, r"lack g, V\[0\], V\[1\], V\[2\], on; they have x"),
        (FRAME.drop(columns="V[1]"), r"lack V\[1\]; they have V\[2\], g"),
        ({**ROWS, "z": 1, "w": 2}, "knows nothing called 'z', 'w'; rows need x, g, V, on"),
        (changed("x", [1.0, np.nan]), "x is nan in row 1 "),
        (changed("x", [np.inf, 0.0]), "x is inf in row 0 "),
        (changed("x", ["1", "2"]), "x holds text, for example '1'"),
        (changed("x", [1.0, None]), "x is missing in row 1 "),
        (changed("x", np.ma.masked_array([1.0, 2.0], [0, 1])), "x is missing in row 1 "),
        (changed("x", np.array(["2020-01-01", "2020-01-02"], "M8[D]")), "x holds dates"),
        (changed("x", np.array([1j, 2j])), "x holds complex numbers"),
        (changed("x", [[1.0], [1.0, 2.0]]), "x cannot be read as one array"),
        (changed("x", [1.0, {}]), r"x is \{\}, not a number, in row 1 "),
        (changed("x", [1.0, 2.0, 3.0]), "disagree about the number of rows: x has 3, g has 2"),
        (changed("x", 1.0), "x came as a single value, g, V, on as one value for each of 2 rows"),
        (changed("x", [[1.0, 2.0], [1.0, 2.0]]), r"x has the shape \(2, 2\); wanted \(rows\), or \(\) for one row"),
        (changed("V", [[1, 2], [3, 4]]), r"V has the shape \(2, 2\); wanted \(rows, 3\), or \(3,\) for one row"),
        (changed("V", [[1, 2, 3], [3, 4, np.nan]]), "V is nan in row 1 "),
        (changed("g", [0.5, 1]), "g is 0.5 in row 0 .*whole numbers in training"),
        (changed("g", [0, 5]), "g is 5 in row 1 .*never seen. It knows 0 to 4"),
        (changed("g", [-1, -1]), r"g is -1 in row 0 and 1 more .*\(-1 is how pandas codes a category"),
        (changed("g", np.array([0, 2**63], np.uint64)), "g is 9223372036854775808 in row 1"),
        (changed("on", [0, 2]), "on is 2 in row 1 .*wanted True or False"),
        (FRAME.assign(g=pd.Categorical(["a", "b"])), "g holds categories; pass their codes"),
        (FRAME.assign(x=pd.array([1.0, None], "Float64")), "x is (nan|missing) in row 1"),
        (FRAME.assign(g=pd.array([1, None], "Int64")), "g is (nan|missing) in row 1"),
        (pa.Table.from_pandas(FRAME).set_column(1, "g", pa.array([1, None])), "g is nan in row 1"),
        (changed("J", 6), "J is part of the trained model, 5, and came with another value"),
        (changed("knots", [0, 1, 5]), r"knots is part of the trained model, an array of shape \(3,\)"),
        (changed("extra", 1), "extra is part of the trained model, None"),
    ],
)
def test_rows_that_do_not_fit(rows, text):
    with pytest.raises(PredictionError, match=text):
        read_rows(rows, PROGRAM)


def test_rows_are_numbered_within_their_table():
    with pytest.raises(PredictionError, match="x is nan in row 1001 "):
        read_rows(changed("x", [0.0, np.nan]), PROGRAM, first_row=1000)


def test_hashes_know_the_content_and_not_the_place():
    columns, _ = read_rows(FRAME, PROGRAM)
    hashes = content_hashes(columns, 2)
    backwards = content_hashes({name: values[::-1] for name, values in reversed(columns.items())}, 2)
    np.testing.assert_array_equal(hashes, backwards[::-1])
    assert hashes[0] != hashes[1]
    many = content_hashes({"x": np.arange(30_000.0)}, 30_000)
    assert len(np.unique(many)) > 29_990  # 0.1 collisions expected among 32-bit hashes
    np.testing.assert_array_equal(content_hashes({"x": np.array([0.0])}, 1), content_hashes({"x": np.array([-0.0])}, 1))


@pytest.mark.parametrize("low", [0, None])
def test_lists_take_the_short_way_to_the_same_columns(low, monkeypatch):
    inputs = (
        PROGRAM.inputs[0],
        replace(PROGRAM.inputs[1], low=low, high=None if low is None else 4),
        PROGRAM.inputs[2],
    )
    program = replace(PROGRAM, inputs=inputs)
    fine = [
        {"x": [1.0, 2.0], "g": [0, 4], "V": [[1, 2.5, 3], [4, 5, 6]]},
        {"x": [1, 2], "g": [0, 0], "V": [[1, 2, 3], [4, 5, 6]]},
        {"x": [2**60], "g": [1], "V": [[-0.0, 1e-300, 1e300]]},
    ]
    longer = [
        {"x": 1.0, "g": 0, "V": [1, 2, 3]},
        {"x": [1.0], "g": [2.0], "V": [[1, 2, 3]]},
        {"x": [1.0], "g": [True], "V": [[1, 2, 3]]},
    ]
    wrong = [
        {"x": [1.0], "g": [1.5], "V": [[1, 2, 3]]},
        {"x": [1.0], "g": [1], "V": [[1, 2]]},
        {"x": [1.0], "g": [1], "V": [[1, 2, 3], [1, 2]]},
        {"x": [float("nan")], "g": [1], "V": [[1, 2, 3]]},
        {"x": ["a"], "g": [1], "V": [[1, 2, 3]]},
        {"x": [None], "g": [1], "V": [[1, 2, 3]]},
        {"x": [10**400], "g": [1], "V": [[1, 2, 3]]},
        {"x": [1.0, 2.0], "g": [1], "V": [[1, 2, 3]]},
        *([{"x": [1.0], "g": [5], "V": [[1, 2, 3]]}, {"x": [1.0], "g": [-1], "V": [[1, 2, 3]]}] if low == 0 else []),
    ]
    for given in fine:
        assert rows._ready(given, program) is not None
    for given in longer + wrong:
        assert rows._ready(given, program) is None
    for given in wrong:
        with pytest.raises(PredictionError):
            read_rows(given, program)
    short = [read_rows(given, program) for given in fine]
    monkeypatch.setattr(rows, "_ready", lambda given, program: None)
    for given, (columns, count) in zip(fine, short, strict=True):
        expected, expected_count = read_rows(given, program)
        assert count == expected_count
        for name, values in expected.items():
            assert columns[name].dtype == values.dtype
            np.testing.assert_array_equal(columns[name], values)


def test_a_library_that_another_thread_is_importing_is_in_nobodys_way(monkeypatch):
    """It is known by its name before it has its types."""
    monkeypatch.setitem(sys.modules, "pandas", types.ModuleType("pandas"))
    table = pa.table({"x": [0.5], "g": [1], "V": [[1.0, 2.0, 3.0]], "on": [True]})
    columns, count = read_rows(table, PROGRAM)
    assert count == 1
    assert columns["x"].tolist() == [0.5]
