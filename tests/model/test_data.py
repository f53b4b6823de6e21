"""What users pass as data: what is taken, and what is refused with which words."""

import numpy as np
import pandas as pd
import pytest

from probinfer.errors import DataError
from probinfer.model.data import check_data


def test_sizes_and_switches_are_constants_and_measurements_are_arrays():
    checked = check_data({"J": 3, "flag": True, "y": None, "n": np.int32(4), "x": [1, 2], "s": 0.5, "u": np.array(7)})
    assert checked.constants == {"J": 3, "flag": True, "y": None, "n": 4, "u": 7}
    assert {name: (value.shape, value.dtype) for name, value in checked.arrays.items()} == {
        "x": ((2,), np.dtype(np.int64)),
        "s": ((), np.dtype(np.float64)),
    }


def test_a_data_frame_is_its_columns():
    frame = pd.DataFrame({"x": [1.5, 2.5], "group": [0, 1], "flag": [True, False]})
    arrays = check_data(frame).arrays
    assert arrays["x"].tolist() == [1.5, 2.5]
    assert arrays["group"].dtype == np.int64
    assert arrays["flag"].dtype == bool


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (
            np.array([1.0, np.nan, np.inf]),
            r"x has 2 of 3 entries that are NaN or infinite, the first at x\[1\] \(nan\)",
        ),
        (np.array(["a", "b"]), "x holds text, for example 'a'; wanted numbers"),
        (np.array(["2020-01-01"], dtype="datetime64[D]"), "x holds dates"),
        (np.array([1 + 2j]), "x holds complex numbers"),
        ([[1, 2], [3]], "x cannot be read as one array .*different lengths"),
        (np.array([1.0, None], dtype=object), r"x\[1\] is None, a missing value; .*drop or impute"),
        (pd.Series([1, None], dtype="Int64"), r"x has 1 of 2 entries that are NaN|x\[1\] is <NA>, a missing value"),
        (pd.Series(["u", "v"]), r"x\[0\] is 'u', text|x holds text"),
        (np.ma.masked_array([1.0, 2.0], mask=[False, True]), "x has 1 masked entries"),
        (np.array([2**64 - 1], dtype=np.uint64), "x holds integers beyond"),
        ("hello", "x holds text"),
    ],
)
def test_what_no_inference_can_use_is_refused_by_name(value, text):
    with pytest.raises(DataError, match=text):
        check_data({"x": value})


def test_data_of_another_kind_are_refused():
    with pytest.raises(DataError, match="data came as list; wanted a dict of arrays or a table"):
        check_data([1, 2, 3])
    with pytest.raises(DataError, match="data has the key 0; wanted strings"):
        check_data({0: [1.0]})


def test_objects_that_are_numbers_are_numbers():
    assert check_data({"x": np.array([1, 2.5], dtype=object)}).arrays["x"].tolist() == [1.0, 2.5]
