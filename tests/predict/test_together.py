"""Questions of several clients in one call: each gets what it would get alone, or its own error."""

import itertools

import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist

import probinfer as pi
from probinfer.predict.engine import Engine
from probinfer.predict.interval import take_groups
from probinfer.predict.rows import read_rows
from probinfer.predict.together import _CALL, FewShapes, Question, _cut, answer_together, guarantee_of, join

from . import models
from .fits import fitted


@pytest.fixture(scope="module")
def line():
    return fitted(models.line, {"x": models.x, "y": models.y}, models.LINE)


@pytest.fixture(scope="module")
def logistic():
    return fitted(models.logistic, {"X": models.X, "y": models.y > 0}, {"beta": models.draws(3)})


@pytest.fixture(scope="module")
def calibrated(line):
    rng = np.random.default_rng(1)
    x, group = rng.normal(size=60), np.resize([0, 1, 1], 60)
    return line.calibrate({"x": x}, 3.0 * rng.normal(size=60) * (1 + group), groups=group)


def question(predictor, rows, level=0.9, quantiles=(), groups=None):
    rows, labels = take_groups(rows, groups, predictor.calibration, predictor.program)
    columns, count = read_rows(rows, predictor.program)
    return Question(columns, np.zeros(count, np.uint32), labels, level, quantiles)


def together(predictor, questions):
    return answer_together(FewShapes(predictor._engine), predictor.calibration, questions)


def assert_same(found, predictor, rows, level=0.9, quantiles=(), groups=None):
    found, alone = found.own, predictor.predict(rows, level, quantiles or None, groups=groups)
    for one, other in (
        (found.answer.mean, alone.mean),
        (found.answer.epistemic_sd, alone.epistemic_sd),
        (found.lower, alone.lower),
        (found.upper, alone.upper),
        *([(found.quantiles, alone.quantiles)] if quantiles else []),
        *([(found.sets, alone.sets)] if alone.sets is not None else []),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-10)
    assert found.guarantee == alone.guarantee


ASKED = [
    (np.array([0.1]), 0.9, ()),
    (np.array([-2.0, 0.5, 1.5]), 0.5, (0.05, 0.5, 0.95)),
    (np.array([3.0]), 0.99, tuple(np.linspace(0.02, 0.98, 20))),  # more quantiles than a call computes
    (np.array([0.1]), 0.8, ()),
]


def test_each_question_keeps_its_level_quantiles_and_place(line):
    answers = together(line, [question(line, {"x": x}, level, q) for x, level, q in ASKED])
    assert [len(answer.own.lower) for answer in answers] == [1, 3, 1, 1]
    for answer, (x, level, quantiles) in zip(answers, ASKED, strict=True):
        assert_same(answer, line, {"x": x}, level, quantiles)


def test_classes_have_their_sets(logistic):
    rng = np.random.default_rng(0)
    asked = [(rng.normal(size=(rows, 3)), level) for rows, level in ((1, 0.5), (4, 0.9))]
    answers = together(logistic, [question(logistic, {"X": X}, level) for X, level in asked])
    for answer, (X, level) in zip(answers, asked, strict=True):
        assert_same(answer, logistic, {"X": X}, level)


def test_calibration_follows_each_question_and_an_unknown_group_is_its_own_error(calibrated):
    x = np.array([0.3, -1.0])
    asked = [
        ({"x": x}, 0.8, (0.5, 0.2), ["0", "1"]),
        ({"x": x}, 0.8, (), ["0", "7"]),
        ({"x": x}, 0.999, (), ["0", "1"]),
        ({"x": x[:1]}, 0.6, (0.3,), ["1"]),
    ]
    answers = together(
        calibrated, [question(calibrated, rows, level, q, np.array(groups)) for rows, level, q, groups in asked]
    )
    for number in (0, 3):
        rows, level, q, groups = asked[number]
        assert_same(answers[number], calibrated, rows, level, q, np.array(groups))
    assert isinstance(answers[1], pi.PredictionError)
    assert "group '7'" in str(answers[1])
    assert isinstance(answers[2], pi.PredictionError)
    assert "too few" in str(answers[2])


def undefined(x, y=None):
    scale = numpyro.sample("scale", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(np.sqrt(1.0) * x**0.5, scale), obs=y)


def test_a_row_without_an_answer_fails_only_its_own_question():
    predictor = fitted(undefined, {"x": np.abs(models.x), "y": models.y}, {"scale": np.exp(models.draws())})
    fine, broken = together(predictor, [question(predictor, {"x": [4.0]}), question(predictor, {"x": [4.0, -1.0]})])
    assert_same(fine, predictor, {"x": [4.0]})
    assert "In row 1 (the first row is row 0)" in str(broken)


def test_parts_are_joined_in_order(calibrated):
    x, groups = np.linspace(-1, 1, 11), np.array(["0"] * 6 + ["1"] * 5)
    whole = question(calibrated, {"x": x}, 0.8, (0.3,), groups)
    parts = [together(calibrated, [whole.part(start, start + 4)])[0] for start in (0, 4, 8)]
    joined = join(parts, guarantee_of(whole, calibrated.calibration, calibrated.program))
    assert_same(joined, calibrated, {"x": x}, 0.8, (0.3,), groups)
    np.testing.assert_array_equal(joined.calibration_rows, [20] * 6 + [40] * 5)


def test_what_was_compiled_beforehand_is_all_that_is_compiled(line):
    few = FewShapes(line._engine)
    few.compile(8)
    known = len(line._engine._compiled)
    for rows in range(1, 9):
        for quantiles in range(12):
            asked = question(line, {"x": np.zeros(rows)}, 0.7, tuple(np.linspace(0.1, 0.9, quantiles)))
            answer_together(few, None, [asked])
    assert len(line._engine._compiled) == known


def test_rows_are_cut_into_blocks_that_hold_them_all_and_cost_least():
    sizes = (1, 2, 4, 8, 16, 32, 64)

    def cost(blocks):
        return sum(blocks) + _CALL * len(blocks)

    for count in range(1, 40):
        blocks = _cut(count, sizes)
        assert sum(blocks[:-1]) < count <= sum(blocks)
        for length in range(1, 4):
            for other in itertools.combinations_with_replacement(sizes, length):
                assert sum(other) < count or cost(blocks) <= cost(other)
    assert sum(_cut(512, sizes)) == 512
    assert _cut(5, (1,)) == (1,) * 5


def test_any_number_of_rows_in_blocks_of_other_sizes_gets_the_same_answers(line):
    few = FewShapes(Engine(line.program, (1, 2, 4)))
    for rows in (2, 3, 7):
        x = np.linspace(-1.0, 1.0, rows)
        (found,) = answer_together(few, None, [question(line, {"x": x}, 0.7, (0.2,))])
        assert_same(found, line, {"x": x}, 0.7, (0.2,))


def test_a_piece_of_a_question_names_its_rows_by_their_numbers_in_the_whole(line):
    whole = question(line, {"x": np.array([0.0, 1.0, 2.0, 1e308])})
    (error,) = together(line, [whole.part(1, 4).part(1, 3)])
    assert isinstance(error, pi.PredictionError)
    assert "In row 3 (the first row is row 0)" in str(error)
