"""The answer as table, text and HTML."""

import numpy as np
import pytest

from probinfer.predict.prediction import Prediction


def prediction(rows=3, event=(), **more):
    numbers = np.arange(float(rows * np.prod(event, dtype=int))).reshape(rows, *event)
    names = ("mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse")
    return Prediction(outcome="y", level=0.9, **{name: numbers + i for i, name in enumerate(names)}, **more)


PLAIN = ["mean", "sd", "lower", "upper", "level", "epistemic_sd", "aleatoric_sd", "mcse"]


def test_columns():
    p = prediction(quantiles=np.arange(6.0).reshape(3, 2), quantile_levels=(0.05, 0.5))
    frame = p.to_frame()
    assert list(frame) == [*PLAIN, "q0.05", "q0.5"]
    assert len(frame) == len(p) == 3
    assert (frame["level"] == 0.9).all()
    np.testing.assert_array_equal(frame["q0.5"], [1.0, 3.0, 5.0])


def test_columns_of_classes():
    chances = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8]])
    p = prediction(probabilities=chances, classes=np.arange(3))
    assert list(p.to_frame()) == [*PLAIN, "most_probable", "probability_0", "probability_1", "probability_2"]
    np.testing.assert_array_equal(p.most_probable, [1, 0, 2])
    parts = {name: np.zeros(3) for name in ("entropy", "expected_entropy", "mutual_information")}
    split = prediction(probabilities=chances, classes=np.arange(3), **parts)
    assert list(split.to_frame())[-3:] == list(parts)
    assert "mutual_information" in split._repr_html_()
    assert "entropy" not in prediction().to_frame()
    assert prediction(probabilities=chances).most_probable is None  # counts are not classes
    assert list(prediction(probabilities=chances).to_frame()) == PLAIN


def test_columns_of_several_numbers():
    frame = prediction(event=(2,)).to_frame()
    assert list(frame)[:5] == ["mean[0]", "mean[1]", "sd[0]", "sd[1]", "lower[0]"]
    assert "level" in frame
    np.testing.assert_array_equal(frame["mean[1]"], [1.0, 3.0, 5.0])


def test_text_and_html_show_the_level():
    p = prediction(rows=30)
    assert repr(p).startswith("Prediction of y: 30 rows, 90% interval\n")
    assert "… and 20 more" in repr(p)
    assert "90% interval" in p._repr_html_()
    assert p._repr_html_().count("<tr") == 11
    assert repr(prediction(rows=0)) == "Prediction of y: 0 rows, 90% interval"


def test_a_prediction_does_not_change():
    with pytest.raises(AttributeError):
        prediction().level = 0.5
