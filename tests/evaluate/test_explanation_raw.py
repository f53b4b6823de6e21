"""Explanations of predictors that take raw rows: labels, dates and gaps as inputs, under their own names."""

import re

import numpy as np
import pandas as pd
import pytest

import probinfer as pi
from probinfer.evaluate.flat_table import FlatTable
from tests.predict.test_pipeline import NEW, RAW, pipeline, predictor_of

NAMES = ["size", "town", "income", "day", "county"]


@pytest.fixture(scope="module")
def predictor():
    return predictor_of(pipeline(pi.Log()))


def test_a_table_gives_the_rows_back(predictor):
    flat = FlatTable(predictor.program)
    table = flat.read(RAW)
    assert flat.names == NAMES
    assert flat.whole.tolist() == [False, True, False, False, True]
    assert np.isnan(table[0, 2])
    columns = flat.columns(table)
    for name in NAMES:
        wanted = RAW[name].to_numpy()
        assert ((columns[name] == wanted) | (pd.isna(columns[name]) & pd.isna(wanted))).all(), name
    np.testing.assert_array_equal(predictor.predict(columns).mean, predictor.predict(RAW).mean)
    table[0, :] = np.nan  # a gap of each kind
    gaps = flat.columns(table)
    assert [gaps[name][0] is None for name in ("town", "county")] == [True, True]
    assert np.isnat(gaps["day"][0])
    assert [flat.shown(i, np.nan) is None for i in (1, 3)] == [True, True]


def test_labels_of_another_table_have_numbers_of_their_own(predictor):
    flat = FlatTable(predictor.program)
    some = flat.read(RAW[RAW.town == "B"])
    rest = flat.read(RAW)
    assert (some[:, 1] == 0).all()
    assert flat.labels[1] == ["B", "A", "C"]
    assert (flat.columns(rest)["town"] == RAW.town).all()


def test_dependence_on_a_label_is_the_mean_with_all_rows_set_to_it(predictor):
    found = pi.partial_dependence(predictor, RAW, "town", of=pi.Quantity.MEAN, ice=True)
    assert found.table["at"].tolist() == ["A", "B", "C"]
    for town, value in zip("ABC", found.table["value"], strict=True):
        assert value == pytest.approx(predictor.predict(RAW.assign(town=town)).mean.mean())
    assert found.curves["at"].tolist()[:3] == ["A", "B", "C"]
    (axes,) = found.plot().axes
    assert all(line.get_linestyle() == "None" for line in axes.lines)  # nothing lies between two labels
    assert [text.get_text() for text in axes.get_xticklabels()] == ["A", "B", "C"]
    chosen = pi.partial_dependence(predictor, RAW, "county", of=pi.Quantity.MEAN, at=["Y"])
    assert chosen.table["value"].tolist() == pytest.approx([predictor.predict(RAW.assign(county="Y")).mean.mean()])
    dates = ["2024-02-03", "2024-02-04"]
    days = pi.partial_dependence(predictor, RAW, "day", of=pi.Quantity.MEAN, at=dates).table
    assert [str(day)[:10] for day in days["at"]] == dates
    for day, value in zip(dates, days["value"], strict=True):
        assert value == pytest.approx(predictor.predict(RAW.assign(day=pd.Timestamp(day))).mean.mean())


def test_of_many_labels_the_most_frequent(predictor):
    found = pi.partial_dependence(predictor, RAW, "town", of=pi.Quantity.MEAN, grid=2)
    assert set(found.table["at"]) == set(RAW.town.value_counts().index[:2])


def test_importance_and_trees_know_raw_columns(predictor):
    table = pi.permutation_importance(predictor, RAW, RAW.price, of=pi.Quantity.MEAN, repeats=2).table
    assert table["input"].tolist() == NAMES * 2
    assert (table.loc[table["quantity"] == "mean", "value"] > 0).all()
    twin = RAW.assign(town=RAW.town[::-1].to_numpy())  # a shuffle by hand moves the mean too
    assert abs(predictor.predict(twin).mean - predictor.predict(RAW).mean).max() > 0
    rules = pi.surrogate_tree(predictor, RAW.assign(size=50.0, income=50.0, day=RAW.day[0]), max_depth=2).table
    assert rules["rule"].str.contains(r"town is [ABC]|county is [XY]").all()
    parts = rules[rules["quantity"] == "mean"]
    assert parts["share"].sum() == pytest.approx(1)


def test_rules_say_where_gaps_go(predictor):
    """Of the income alone, whose gaps the model fills in with the median and marks."""
    same = RAW.assign(size=50.0, town="A", county="X", day=RAW.day[0])
    table = pi.surrogate_tree(predictor, same, max_depth=2, of=pi.Quantity.MEAN).table
    gaps = RAW.income.isna().to_numpy()
    covered = np.zeros(len(RAW), int)
    for rule, share in zip(table["rule"], table["share"], strict=True):
        words = re.findall(r"income (>|<=) (\S+?)(?=\)| |$)", rule)
        low, high = ([float(number) for sign, number in words if sign == kind] for kind in (">", "<="))
        inside = (RAW.income > max(low, default=-np.inf)) & (RAW.income <= min(high, default=np.inf))
        inside = gaps if rule == "income is missing" else inside | (gaps & ("missing" in rule and "not" not in rule))
        assert inside.mean() == pytest.approx(share), rule
        covered += inside
    assert (covered == 1).all()


def test_conditions_in_words(predictor):
    flat = FlatTable(predictor.program)
    flat.read(RAW)
    size, town, income, day, _ = range(5)
    inf = np.inf
    for column, limits, missing, text in (
        (size, (-inf, 2.0), True, "size <= 2"),
        (size, (1.0, 2.0), True, "size > 1 and size <= 2"),
        (town, (0.5, inf), True, "town is B or C"),
        (town, (-inf, 1.5), True, "town is A or B"),
        (income, (inf, inf), True, "income is missing"),
        (income, (-inf, inf), False, "income is not missing"),
        (income, (3.0, inf), True, "(income > 3 or missing)"),
        (day, (-inf, 0.5), True, "day <= 1970-01-01"),
    ):
        assert flat.condition(column, *limits, missing=missing) == text
    flat.read(RAW.assign(day=pd.Timestamp("2024-01-01 17:30"), town=[None, *RAW.town[1:]]))
    assert flat.condition(day, 0.5, inf, missing=True) == "day > 1970-01-01T12:00"
    assert flat.condition(town, 1.5, inf, missing=True) == "town is C or missing"


@pytest.mark.long
def test_shap_and_lime_of_raw_rows(predictor):
    whole = RAW.assign(income=RAW.income.fillna(50.0))
    found = pi.shap_values(predictor, NEW.iloc[1:3], whole, of=pi.Quantity.MEAN).table
    assert found["at"].tolist()[1] == NEW.town[1]
    totals = found.groupby("row")["value"].sum() + found.groupby("row")["base"].first()
    np.testing.assert_allclose(totals, predictor.predict(NEW.iloc[1:3]).mean, rtol=1e-9)
    with pytest.raises(
        pi.PredictionError, match=r"LIME asks about random rows .* size is -.* a logarithm wants"
    ):  # near the row there are such
        pi.lime_weights(predictor, NEW.iloc[1:2], whole, of=pi.Quantity.MEAN, repeats=2, samples=200)
    large = whole.assign(size=whole["size"] + 1000.0)
    near = pi.lime_weights(predictor, large.iloc[1:2], large, of=pi.Quantity.MEAN, repeats=2, samples=200).table
    assert near["input"].tolist() == NAMES
    assert near["at"][1] == whole.town[1]
    assert np.isfinite(near["value"]).all()


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda p: pi.partial_dependence(p, RAW, "town", at=["D"]), r"at is \['D'\]; wanted a list of A, B, C"),
        (lambda p: pi.partial_dependence(p, RAW, "town", at=[]), r"at is \[\]; wanted a list of A, B, C"),
        (lambda p: pi.partial_dependence(p, RAW, "day", at=["soon"]), "wanted a list of finite numbers or dates"),
        (lambda p: pi.lime_weights(p, NEW[:3], RAW), r"of the background income is missing in row 0 \(the first"),
        (lambda p: pi.partial_dependence(p, RAW, "X"), "There is no input 'X'; there are size, town"),
        (lambda p: pi.permutation_importance(p, RAW.drop(columns="town")), "The rows lack town"),
    ],
)
def test_wrong_calls(predictor, call, text):
    with pytest.raises(pi.PredictionError, match=text):
        call(predictor)
