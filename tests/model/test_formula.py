"""Formulas: what is read, the columns that come of it, the density against one written by hand, and what is refused."""

from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import optimize, special, stats

import probinfer as pi
from probinfer.errors import DataError, ModelError
from probinfer.inference.draw import draw_update
from probinfer.model.formula import families
from probinfer.model.formula.columns import TRAINING
from probinfer.model.formula.terms import read_formula
from probinfer.model.target import Target
from probinfer.model.trace import pointwise_log_density

ROWS = 48
rng = np.random.default_rng(5)
FRAME = pd.DataFrame(
    {
        "x": rng.normal(3, 1, ROWS),
        "z": rng.uniform(1, 9, ROWS),
        "a": np.resize(["a1", "a2", "a3"], ROWS),
        "b": np.resize(["b1", "b1", "b1", "b2", "b2", "b2"], ROWS),
        "c": np.repeat([False, True], ROWS // 2),
        "year": np.resize([2009, 2010, 2011, 2012], ROWS),
        "g": rng.choice(list("pqrst"), ROWS),
        "h": rng.choice(["u", "v"], ROWS),
        "y": rng.normal(1, 2, ROWS),
        "size": rng.gamma(2, 1, ROWS),
        "share": rng.beta(2, 2, ROWS),
        "ill": rng.integers(0, 2, ROWS),
        "deaths": rng.poisson(3, ROWS),
        "kind": rng.choice(["r", "s", "t"], ROWS),
        "grade": rng.choice(["low", "mid", "high"], ROWS),
    }
)
FRAME["cases"] = FRAME.deaths + rng.integers(0, 5, ROWS)
GRADES = {"grade": ["low", "mid", "high"]}


def settled(text, family=pi.Family.GAUSSIAN, frame=FRAME, **more):
    return pi.formula(text, family, **more).bind(frame)


def fixed(text, frame=FRAME, **more):
    """The fixed part's matrix on the raw scale, and the names of its columns. Nothing is traced for it."""
    model = pi.formula(text, **more).settle(frame)
    function, raw = model.function, model.take(frame)
    arrays = {each.argument: each.apply(raw, TRAINING) for each in model.fitted.inputs}
    ones = [np.ones((len(frame), 1))] if function.intercept is not None else []
    matrix = [function.derived(arrays, np)["(design)"] + function.means] if function.coefficients else []
    return np.hstack([*ones, *matrix]), ["Intercept"] * len(ones) + list(function.design.labels)


# what is read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("y ~ a*b - a", ["Intercept", "b", "a:b"]),
        ("y ~ a*b*c - a:b:c", ["Intercept", "a", "b", "c", "a:b", "a:c", "b:c"]),
        ("y ~ (a + b + c)**2 - 1", ["a", "b", "c", "a:b", "a:c", "b:c"]),
        ("y ~ (a + b)^2", ["Intercept", "a", "b", "a:b"]),
        ("y ~ a/b", ["Intercept", "a", "a:b"]),
        ("y ~ (a + b)/c", ["Intercept", "a", "b", "a:b:c"]),
        ("y ~ 0 + b:a + a:b", ["b:a"]),
        ("y ~ -1 + a + 1", ["Intercept", "a"]),
        ("y ~ a - 1 + b", ["a", "b"]),
        ("y~a:b+a", ["Intercept", "a", "a:b"]),
        ("y ~ a + a + a:a", ["Intercept", "a"]),
        ("y ~ log( x+1 ) + log(x + 1)", ["Intercept", "log(x + 1)"]),
        ("y ~ I(-x**2 + (x - z)/2) + `price per m2`", ["Intercept", "I(-x**2 + (x - z) / 2)", "`price per m2`"]),
        ("y ~ x*(a + b)", ["Intercept", "x", "a", "b", "x:a", "x:b"]),
        ("y ~\n  x +\n  z", ["Intercept", "x", "z"]),
    ],
)
def test_terms_are_those_of_r(text, names):
    assert [term.name for term in read_formula(text).terms] == names


def test_group_terms_and_offsets_are_told_apart():
    found = read_formula("y ~ x + (1 + x | g/h) + offset(log(z)) + (0 + z || g) + (a | g:h)")
    assert [term.name for term in found.terms] == ["Intercept", "x"]
    said = [(g.name, [t.name for t in g.terms], g.correlated) for g in found.groups]
    assert said == [
        ("g", ["Intercept", "x"], True),
        ("g:h", ["Intercept", "x"], True),
        ("g", ["z"], False),
        ("g:h", ["Intercept", "a"], True),
    ]
    assert len(found.offsets) == 1


# the columns ---------------------------------------------------------------------------------------------------------

# The columns that formulaic 1.2 makes, by the names it gives them; `a[T.a2]` and `a[a2]` are 1 where a is a2.
COLUMNS = {
    "1 + x": "Intercept x",
    "0 + x": "x",
    "a": "Intercept a[a2] a[a3]",
    "0 + a": "a[a1] a[a2] a[a3]",
    "a + b": "Intercept a[a2] a[a3] b[b2]",
    "0 + a + b": "a[a1] a[a2] a[a3] b[b2]",
    "a * b": "Intercept a[a2] a[a3] b[b2] a[a2]:b[b2] a[a3]:b[b2]",
    "a:b": "Intercept b[b2] a[a2]:b[b1] a[a3]:b[b1] a[a2]:b[b2] a[a3]:b[b2]",
    "0 + a:b": "a[a1]:b[b1] a[a2]:b[b1] a[a3]:b[b1] a[a1]:b[b2] a[a2]:b[b2] a[a3]:b[b2]",
    "x:a": "Intercept x:a[a1] x:a[a2] x:a[a3]",
    "x + x:a": "Intercept x x:a[a2] x:a[a3]",
    "x * a": "Intercept x a[a2] a[a3] x:a[a2] x:a[a3]",
    "0 + x:a": "x:a[a1] x:a[a2] x:a[a3]",
    "a + x:a - 1": "a[a1] a[a2] a[a3] x:a[a1] x:a[a2] x:a[a3]",
    "a/b": "Intercept a[a2] a[a3] a[a1]:b[b2] a[a2]:b[b2] a[a3]:b[b2]",
    "a*b*c": "Intercept a[a2] a[a3] b[b2] c[True] a[a2]:b[b2] a[a3]:b[b2] a[a2]:c[True] a[a3]:c[True] b[b2]:c[True] "
    "a[a2]:b[b2]:c[True] a[a3]:b[b2]:c[True]",
    "(x + a + b)**2": "Intercept x a[a2] a[a3] b[b2] x:a[a2] x:a[a3] x:b[b2] a[a2]:b[b2] a[a3]:b[b2]",
    "x:z:a": "Intercept x:z:a[a1] x:z:a[a2] x:z:a[a3]",
    "x:a + b": "Intercept b[b2] x:a[a1] x:a[a2] x:a[a3]",
    "C(year)": "Intercept year[2010] year[2011] year[2012]",
    "year": "Intercept year",
}
SPANS = {  # as many columns, which span the same
    "a:b:c": "Intercept a[a2]:b[b1] a[a3]:b[b1] a[a2]:b[b2] a[a3]:b[b2] a[a1]:c[True] a[a2]:c[True] a[a3]:c[True] "
    "b[b2]:c[False] b[b2]:c[True] a[a2]:b[b2]:c[True] a[a3]:b[b2]:c[True]",
    "a + a:b:c": "Intercept a[a2] a[a3] a[a1]:c[True] a[a2]:c[True] a[a3]:c[True] a[a1]:b[b2]:c[False] "
    "a[a2]:b[b2]:c[False] a[a3]:b[b2]:c[False] a[a1]:b[b2]:c[True] a[a2]:b[b2]:c[True] a[a3]:b[b2]:c[True]",
}


def by_hand(names):
    """Columns by their names: products of numbers and indicators."""
    columns = []
    for name in names.split():
        column = np.ones(ROWS)
        for part in name.split(":") if name != "Intercept" else ():
            factor, _, level = part.rstrip("]").partition("[")
            column = column * ((FRAME[factor].astype(str) == level) if level else FRAME[factor])
        columns.append(np.asarray(column, float))
    return np.stack(columns, axis=1)


def same_columns(one, other):
    def ordered(matrix):
        return matrix.T[np.lexsort(matrix.round(9))]

    return one.shape == other.shape and np.allclose(ordered(one), ordered(other))


def same_span(one, other):
    ranks = {np.linalg.matrix_rank(matrix) for matrix in (one, other, np.hstack([one, other]))}
    return one.shape == other.shape and ranks == {one.shape[1]}


@pytest.mark.parametrize("text", COLUMNS)
def test_columns_are_formulaics(text):
    assert same_columns(fixed(f"y ~ {text}")[0], by_hand(COLUMNS[text]))


@pytest.mark.parametrize("text", SPANS)
def test_columns_span_what_formulaics_do(text):
    assert same_span(fixed(f"y ~ {text}")[0], by_hand(SPANS[text]))


def test_a_reference_level_that_is_coded_wrongly_is_noticed():
    """The twin: the same span, another reference. The columns differ, so the test above would fail."""
    for text in ("a", "x * a", "a/b"):
        other = fixed(f"y ~ {text}", levels={"a": ["a2", "a1", "a3"]})[0]
        assert same_span(other, by_hand(COLUMNS[text]))
        assert not same_columns(other, by_hand(COLUMNS[text]))


def test_columns_have_the_names_of_their_levels():
    _, names = fixed("y ~ x*a + poly(z, 2) + b:a")
    assert names == [
        *("Intercept", "x", "a[a2]", "a[a3]", "poly(z, 2)[1]", "poly(z, 2)[2]", "x:a[a2]", "x:a[a3]"),
        *("b:a[b2:a1]", "b:a[b2:a2]", "b:a[b2:a3]"),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("log(z)", lambda f: np.log(f.z)),
        ("log1p(z)", lambda f: np.log1p(f.z)),
        ("sqrt(abs(x - 3))", lambda f: np.sqrt(np.abs(f.x - 3))),
        ("I(x**2 + 2*z/3 - 1)", lambda f: f.x**2 + 2 * f.z / 3 - 1),
        ("exp(-x)", lambda f: np.exp(-f.x)),
        ("I(z**0.5)", lambda f: np.sqrt(f.z)),
        ("sin(x)", lambda f: np.sin(f.x)),
        ("scale(log(z))", lambda f: (np.log(f.z) - np.log(f.z).mean()) / np.log(f.z).std(ddof=0)),
        ("center(x)", lambda f: f.x - f.x.mean()),
        ("log2(z)", lambda f: np.log2(f.z)),
        ("log10(z)", lambda f: np.log10(f.z)),
    ],
)
def test_functions_of_columns(text, expected):
    assert np.allclose(fixed(f"y ~ 0 + {text}")[0][:, 0], expected(FRAME), rtol=1e-12)


def test_polynomials_are_orthogonal_and_those_of_r():
    z = np.array([*range(1, 12), 13.5])
    bound = settled("y ~ poly(z, 3)", frame=pd.DataFrame({"z": z, "y": np.sin(z)}))
    ours = bound.arrays["(design)"]
    # formulaic 1.2's poly(z, 3), which is R's
    first = [-0.4425397074273712, 0.47440678917617424, -0.4629015283002316]
    last = [0.5408818646334537, 0.6163880708530023, 0.43269111691088585]
    assert np.allclose(ours[[0, -1]], [first, last], rtol=1e-10)
    assert np.allclose(ours.T @ ours, np.eye(3), atol=1e-12)
    raw = fixed("y ~ 0 + poly(z, 3, raw=True)")[0]
    assert np.allclose(raw, np.stack([FRAME.z, FRAME.z**2, FRAME.z**3], axis=1))


def test_what_is_scaled_is_scaled_by_the_rows_of_training():
    model = pi.formula("y ~ 0 + scale(x)").settle(FRAME)
    few = model.bind(FRAME.iloc[:5])
    assert np.allclose(few.arrays["(design)"][:, 0], (FRAME.x[:5] - FRAME.x.mean()) / FRAME.x.std(ddof=0))


@pytest.mark.parametrize(
    "make",
    [dict, pa.Table.from_pandas, lambda f: f[f.columns[::-1]], lambda f: f.astype(object)],
    ids=["dict", "arrow", "order", "objects"],
)
def test_tables_of_any_kind_say_the_same(make):
    ours, theirs = settled("y ~ x*a + c + (1|g)", frame=make(FRAME)), settled("y ~ x*a + c + (1|g)")
    for name, values in theirs.arrays.items():
        assert np.array_equal(ours.arrays[name], values), name


def test_categories_of_numbers_are_labels_and_stay_so():
    frame = FRAME.assign(year=FRAME.year.astype("category"))
    bound = settled("y ~ year", frame=frame)
    assert same_columns(fixed("y ~ year", frame)[0], by_hand(COLUMNS["C(year)"]))
    again = bound.model.declared.bind(bound.data)  # how a predictor comes back to it
    assert np.array_equal(again.arrays["(design)"], bound.arrays["(design)"])


def test_one_column_is_a_number_and_a_group_at_once():
    bound = settled("y ~ year + (1 | year)")
    assert bound.arrays["year"].dtype == float
    assert bound.arrays["C(year)"].tolist()[:5] == [0, 1, 2, 3, 0]
    assert {site.name: site.dims for site in bound.latents}["year_z"] == ("year_level",)


def test_trials_may_be_a_group_or_a_factor_too():
    for text in ("proportion(deaths, cases) ~ x + (1 | cases)", "proportion(deaths, cases) ~ C(cases)"):
        arrays = settled(text, pi.Family.BINOMIAL).arrays
        assert np.array_equal(arrays["cases"], FRAME.cases)
        assert np.array_equal(np.unique(FRAME.cases)[arrays["C(cases)"]], FRAME.cases)


def test_a_column_with_a_colon_in_its_name_is_no_combination():
    frame = FRAME.assign(**{"a:b": FRAME.g})
    bound = settled("y ~ (1 | a:b) + (0 + x | `a:b`)", frame=frame)
    assert {site.name: site.shape for site in bound.latents if site.name.endswith("_z")} == {
        "a:b_z": (6,),
        "`a:b`_z": (5, 1),
    }


def test_numbers_of_decimals_are_numbers():
    frame = FRAME.assign(x=[Decimal(str(value)) for value in FRAME.x], y=[Decimal(str(value)) for value in FRAME.y])
    bound, plain = settled("y ~ x + a", frame=frame), settled("y ~ x + a")
    assert np.allclose(bound.arrays["(design)"], plain.arrays["(design)"], rtol=1e-12)
    assert np.allclose(bound.arrays["y"], plain.arrays["y"], rtol=1e-12)
    with pytest.raises(DataError, match="x is missing in row 7"):
        settled("y ~ x", frame=frame.assign(x=frame.x.where(frame.index != 7)))


def test_an_arrow_dictionary_says_nothing_of_the_order_of_labels():
    doses = pa.array(np.resize(["20", "5", "10"], ROWS)).dictionary_encode()
    names = fixed("y ~ dose", pa.table({"y": FRAME.y, "dose": doses}))[1]
    assert names == ["Intercept", "dose[10]", "dose[20]"]


def test_combinations_of_groups_are_those_of_training():
    frame = FRAME[(FRAME.g != "p") | (FRAME.h != "u")].reset_index(drop=True)
    bound = settled("y ~ (1 | g/h)", frame=frame)
    names = sorted(set(frame.g + ":" + frame.h))
    assert list(bound.coords["g:h"]) == names
    assert [names[level] for level in bound.arrays["g:h"]] == (frame.g + ":" + frame.h).tolist()


# the density ---------------------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    value: np.ndarray
    mean: np.ndarray | None
    log: float


def at(bound, values):
    """Of every site at these values of the latents: its value, its law's mean where it has one, its log density."""

    def run(values):
        found = {}
        for name, site in bound.simulate(values).items():
            if site["type"] == "sample":
                law = site["fn"]
                mean = law.mean if isinstance(law, dist.Normal) else None
                found[name] = Seen(site["value"], mean, jnp.sum(pointwise_log_density(site)))
            elif site["type"] == "deterministic":
                found[name] = Seen(site["value"], None, 0.0)
        return found

    with jax.enable_x64(True):
        return jax.jit(run)({name: jnp.asarray(value) for name, value in values.items()})


def log_density(bound, values, name):
    return float(at(bound, values)[name].log)


def test_the_density_is_that_of_a_model_written_by_hand():
    g, z = pd.factorize(FRAME.g, sort=True)[0], FRAME.z.to_numpy()
    sd, middle = FRAME.y.std(ddof=0), FRAME.y.mean()
    own = fixed("y ~ z + a")[0][:, 1:]

    def by_hand_model(y=None):
        scale = 2.5 * sd
        alpha = numpyro.sample("Intercept_centred", dist.Normal(middle, scale))
        slope = numpyro.sample("z", dist.Normal(0, scale / z.std()))
        a = numpyro.sample("a", dist.Normal(0, scale / own[:, 1:].std(axis=0)))
        sds = numpyro.sample("g_sd", dist.HalfNormal(np.array([scale, scale / z.std()])))
        each = numpyro.sample("g_z", dist.Normal(0, 1).expand([5, 2]))
        corr = numpyro.sample("g_corr", dist.Uniform(-1, 1))
        root = np.eye(2) + 0 * corr
        root = root.at[1, 0].set(corr).at[1, 1].set((1 - corr**2) ** 0.5)
        effect = (sds[:, None] * root @ each.T).T
        intercept = alpha - own[:, 0].mean() * slope - own[:, 1:].mean(axis=0) @ a
        eta = intercept + slope * z + own[:, 1:] @ a + effect[g, 0] + effect[g, 1] * z
        sigma = numpyro.sample("sigma", dist.Exponential(1 / sd))
        numpyro.sample("y", dist.Normal(eta, sigma), obs=y)

    ours = Target(settled("y ~ z + a + (1 + z | g)"))
    theirs = Target(pi.Model(by_hand_model).bind({"y": FRAME.y.to_numpy()}))
    units = {  # ours are in units of the outcome and the predictors
        "Intercept_centred": ([middle], [sd]),
        "z": ([0], [sd / z.std()]),
        "a": ([0, 0], sd / own[:, 1:].std(axis=0)),
        "g_sd": (np.log([sd, sd / z.std()]), [1, 1]),
        "sigma": (np.log([sd]), [1]),
    }
    order = [np.flatnonzero(np.array(theirs.coordinate_names()) == name) for name in ours.layout_names]
    parts = [
        units.get(name, (np.zeros(len(at)), np.ones(len(at))))
        for name, at in zip(ours.layout_names, order, strict=True)
    ]
    place, size = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    for point in np.random.default_rng(1).normal(size=(3, ours.dim)):
        moved = np.empty(ours.dim)
        moved[np.concatenate(order)] = place + size * point
        one, other = ours.site_log_densities(point), theirs.site_log_densities(moved)
        assert sum(one.values()) == pytest.approx(sum(other.values()) + np.log(size).sum(), rel=1e-10)
        with theirs.precision():
            gradient = size * theirs.gradient_at(moved)[np.concatenate(order)]
        assert np.allclose(ours.gradient_at(point), gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.long
def test_three_coefficients_of_a_group_have_the_covariance_of_their_correlations():
    bound = settled("y ~ (1 + x + z | g)")
    root = np.linalg.cholesky(np.array([[1, 0.5, -0.2], [0.5, 1, 0.3], [-0.2, 0.3, 1.0]]))
    sd, z = np.array([1.0, 2.0, 0.5]), np.random.default_rng(2).normal(size=(5, 3))
    values = {"Intercept": 0.0, "g_sd": sd, "g_z": z, "g_corr_cholesky": root, "sigma": 1.0}
    trace = at(bound, values)
    effect = z @ root.T * sd
    assert np.allclose(trace["g_effect"].value, effect)
    assert np.allclose(trace["g_corr"].value, [0.5, -0.2, 0.3])
    assert list(bound.coords["g_corr_pair"]) == ["Intercept, x", "Intercept, z", "x, z"]
    g = bound.arrays["g"]
    expected = effect[g, 0] + effect[g, 1] * FRAME.x + effect[g, 2] * FRAME.z
    assert np.allclose(trace["y"].mean, expected)


X1 = np.column_stack([np.ones(ROWS), FRAME.x])
SLOPES = {"Intercept": 0.3, "x": 0.2}
ETA = 0.3 + 0.2 * FRAME.x.to_numpy()
COUNTS, SHARE = FRAME.deaths.to_numpy(), FRAME.share.to_numpy()


def inflated(base):
    return np.log(np.where(COUNTS == 0, 0.25 + 0.75 * np.exp(base), 0.75 * np.exp(base)))


FAMILIES = [
    ("y", pi.Family.GAUSSIAN, {}, {"sigma": 1.3}, lambda: stats.norm.logpdf(FRAME.y, ETA, 1.3)),
    ("y", pi.Family.STUDENT_T, {}, {"sigma": 1.3, "nu": 4.0}, lambda: stats.t.logpdf(FRAME.y, 4, ETA, 1.3)),
    (
        "log(size)",
        pi.Family.GAUSSIAN,
        {},
        {"sigma": 1.3},
        lambda: stats.norm.logpdf(np.log(FRAME["size"]), ETA, 1.3),
    ),
    (
        "size",
        pi.Family.GAMMA,
        {},
        {"alpha": 2.0},
        lambda: stats.gamma.logpdf(FRAME["size"], 2.0, scale=np.exp(ETA) / 2.0),
    ),
    (
        "share",
        pi.Family.BETA,
        {},
        {"kappa": 5.0},
        lambda: stats.beta.logpdf(SHARE, 5 * special.expit(ETA), 5 * special.expit(-ETA)),
    ),
    ("ill", pi.Family.BERNOULLI, {}, {}, lambda: stats.bernoulli.logpmf(FRAME.ill, special.expit(ETA))),
    (
        "ill",
        pi.Family.BERNOULLI,
        {"link": pi.Link.PROBIT},
        {},
        lambda: stats.bernoulli.logpmf(FRAME.ill, stats.norm.cdf(ETA)),
    ),
    (
        "ill",
        pi.Family.BERNOULLI,
        {"link": pi.Link.CLOGLOG},
        {},
        lambda: stats.bernoulli.logpmf(FRAME.ill, 1 - np.exp(-np.exp(ETA))),
    ),
    (
        "proportion(deaths, cases)",
        pi.Family.BINOMIAL,
        {},
        {},
        lambda: stats.binom.logpmf(COUNTS, FRAME.cases, special.expit(ETA)),
    ),
    ("p(deaths, 30)", pi.Family.BINOMIAL, {}, {}, lambda: stats.binom.logpmf(COUNTS, 30, special.expit(ETA))),
    ("deaths", pi.Family.POISSON, {}, {}, lambda: stats.poisson.logpmf(COUNTS, np.exp(ETA))),
    (
        "deaths",
        pi.Family.NEGATIVE_BINOMIAL,
        {},
        {"alpha": 2.0},
        lambda: stats.nbinom.logpmf(COUNTS, 2.0, 2.0 / (2.0 + np.exp(ETA))),
    ),
    (
        "deaths",
        pi.Family.ZERO_INFLATED_POISSON,
        {},
        {"zero_inflation": 0.25},
        lambda: inflated(stats.poisson.logpmf(COUNTS, np.exp(ETA))),
    ),
    (
        "deaths",
        pi.Family.ZERO_INFLATED_NEGATIVE_BINOMIAL,
        {},
        {"alpha": 2.0, "zero_inflation": 0.25},
        lambda: inflated(stats.nbinom.logpmf(COUNTS, 2.0, 2.0 / (2.0 + np.exp(ETA)))),
    ),
]


QUICK = (0, 8)  # each is a program of its own to compile


@pytest.mark.parametrize(
    ("outcome", "family", "more", "own", "expected"),
    [
        pytest.param(*case, id=f"{case[1].name}-{number}", marks=() if number in QUICK else pytest.mark.long)
        for number, case in enumerate(FAMILIES)
    ],
)
def test_the_likelihood_is_scipys(outcome, family, more, own, expected):
    bound = settled(f"{outcome} ~ x", family, **more)
    centred = {"Intercept_centred": 0.3 + 0.2 * FRAME.x.mean(), "x": 0.2, **own}
    name = bound.model.fn.outcome
    assert log_density(bound, centred, name) == pytest.approx(
        np.sum(expected()), rel=1e-7
    )  # JAX's log beta has 8 digits
    assert float(at(bound, centred)["Intercept"].value) == pytest.approx(0.3)


def test_an_offset_is_added_to_the_linear_predictor():
    bound = settled("deaths ~ x + offset(log(z)) + offset(x)", pi.Family.POISSON)
    centred = {"Intercept_centred": 0.3 + 0.2 * FRAME.x.mean(), "x": 0.2}
    rate = np.exp(ETA + np.log(FRAME.z) + FRAME.x)
    expected = stats.poisson.logpmf(FRAME.deaths, rate).sum()
    assert log_density(bound, centred, "deaths") == pytest.approx(expected, rel=1e-9)


@pytest.mark.long
def test_classes_have_a_linear_predictor_each_but_the_first():
    bound = settled("kind ~ x + a", pi.Family.CATEGORICAL)
    x, a = np.array([0.2, -0.1]), np.array([[0.5, 1.0], [0.0, -1.0]])
    means = bound.model.fn.means
    raw = np.array([0.3, 0.1])
    values = {"Intercept_centred": raw + means @ np.vstack([x, a]), "x": x, "a": a}
    eta = raw + FRAME.x.to_numpy()[:, None] * x + by_hand("a[a2] a[a3]") @ a
    logits = np.hstack([np.zeros((ROWS, 1)), eta])
    codes = FRAME.kind.map({"r": 0, "s": 1, "t": 2}).to_numpy()
    expected = special.log_softmax(logits, axis=1)[np.arange(ROWS), codes].sum()
    assert log_density(bound, values, "kind") == pytest.approx(expected, rel=1e-9)
    assert {site.name: site.dims for site in bound.latents}["a"] == ("a_dim", "kind_class")
    assert list(bound.coords["kind_class"]) == ["s", "t"]


def test_ordered_classes_have_thresholds():
    bound = settled("grade ~ x", pi.Family.CUMULATIVE, levels=GRADES)
    thresholds = np.array([0.2, 1.4])
    values = {"x": 0.2, "threshold_centred": thresholds - 0.2 * FRAME.x.mean()}
    below = special.expit(thresholds - 0.2 * FRAME.x.to_numpy()[:, None])
    probabilities = np.diff(np.hstack([np.zeros((ROWS, 1)), below, np.ones((ROWS, 1))]), axis=1)
    codes = FRAME.grade.map({"low": 0, "mid": 1, "high": 2}).to_numpy()
    expected = np.log(probabilities[np.arange(ROWS), codes]).sum()
    assert log_density(bound, values, "grade") == pytest.approx(expected, rel=1e-9)
    assert np.allclose(at(bound, values)["threshold"].value, thresholds)
    assert list(bound.coords["grade_threshold"]) == ["low|mid", "mid|high"]


@pytest.mark.parametrize(
    "kind", ["pandas", pytest.param("polars", marks=pytest.mark.long), "polars, labels that no row has"]
)
def test_the_order_of_ordered_categories_is_that_of_the_classes(kind):
    grades = GRADES["grade"] if kind == "pandas" or "," not in kind else ["none", *GRADES["grade"]]
    column = pd.Categorical(FRAME.grade, categories=grades, ordered=True)
    frame = FRAME[["x"]].assign(grade=column)
    if kind != "pandas":
        frame = pl.DataFrame({"x": FRAME.x.to_numpy(), "grade": pl.Series(list(FRAME.grade), dtype=pl.Enum(grades))})
    bound = settled("grade ~ x", pi.Family.CUMULATIVE, frame)
    assert list(bound.coords["grade_threshold"]) == [f"{a}|{b}" for a, b in pairwise(grades)]
    given = settled("grade ~ x", pi.Family.CUMULATIVE, frame, levels={"grade": ["high", "mid", "low", "none"]})
    assert list(given.coords["grade_threshold"])[:2] == ["high|mid", "mid|low"]
    unordered = FRAME[["x"]].assign(grade=pd.Categorical(FRAME.grade, categories=grades))
    with pytest.raises(DataError, match=r"levels=\{'grade': .* or make grade a column of ordered categories"):
        settled("grade ~ x", pi.Family.CUMULATIVE, unordered)


def test_the_order_of_categories_is_kept_with_the_posterior(tmp_path):
    """A posterior keeps raw columns without their types: what is made of it, and of its file, knows the order still."""
    frame = FRAME[["x"]].assign(grade=pd.Categorical(FRAME.grade, GRADES["grade"], ordered=True))
    model = pi.formula("grade ~ x", pi.Family.CUMULATIVE)
    posterior = pi.infer(model, frame, pi.Laplace(), progress=False)
    posterior.save(tmp_path / "posterior.nc")
    loaded = pi.load_posterior(tmp_path / "posterior.nc", model, frame)
    for each in (posterior, loaded):
        predictor = pi.Predictor(each, accept=pi.Verdict.BAD)
        assert predictor.predict({"x": [3.0]}).classes.tolist() == GRADES["grade"]


def test_the_cloglog_link_loses_no_digits():
    """logit(1 - exp(-t)) is log(exp(t) - 1), t = exp(eta): next to eta where t is small. By log1p it was -inf."""
    eta = np.concatenate([np.linspace(-700.0, 6.5, 3001), [-10.0 - 1e-9, -10.0, -10.0 + 1e-9]])
    exact = np.log(np.expm1(np.exp(eta)))
    slope = np.exp(eta) / -np.expm1(-np.exp(eta))
    with jax.enable_x64(True), np.errstate(divide="ignore"):
        link = families._LOGITS[pi.Link.CLOGLOG]
        assert np.allclose(link(jnp.asarray(eta)), exact, rtol=1e-13, atol=1e-13)
        assert np.allclose(jax.vmap(jax.grad(link))(jnp.asarray(eta)), slope, rtol=1e-12)
        twin = np.exp(eta) + np.log1p(-np.exp(-np.exp(eta)))
        assert not np.isfinite(twin[eta < -38]).any()
    assert np.allclose(link(jnp.float32(-80.0)), -80.0)


def test_the_design_is_not_made_again_in_a_gradient():
    """No logarithm of the data and no comparison with levels is left in the program: what it takes is the matrix."""
    target = Target(settled("y ~ log(z) + a + (1 | g)"))
    with target.precision():
        text = str(jax.make_jaxpr(target.value_and_grad)(np.zeros(target.dim), target.inputs))
    rows = [line for line in text.splitlines() if f"[{ROWS}" in line]
    assert rows
    assert not [line for line in rows if " log " in line or f"bool[{ROWS}," in line]
    assert sum("dot_general" in line for line in rows) == 1


# fits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_with_wide_priors_the_mode_is_the_maximum_of_the_likelihood():
    wide = {name: dist.Normal(0, 1e4) for name in ("Intercept", "x", "a")}
    target = Target(settled("deaths ~ x + a + offset(log(z))", pi.Family.POISSON, priors=wide))

    def ours(z):
        with target.precision():
            value, gradient = target.value_and_grad(jnp.asarray(z), target.inputs)
        return -float(value), -np.asarray(gradient)

    matrix = by_hand("Intercept x a[a2] a[a3]")

    def theirs(beta):
        eta = matrix @ beta + np.log(FRAME.z.to_numpy())
        return np.exp(eta).sum() - (COUNTS * eta).sum(), matrix.T @ (np.exp(eta) - COUNTS)

    mode, found = (
        optimize.minimize(loss, np.zeros(4), jac=True, method="BFGS", options={"gtol": 1e-8}).x
        for loss in (ours, theirs)
    )
    values = target.constrain(mode[None])
    assert np.allclose(np.concatenate([np.ravel(values[name]) for name in ("Intercept", "x", "a")]), found, atol=1e-5)


@pytest.mark.long
def test_the_posterior_is_that_of_the_exact_method():
    """Normal priors and a known sigma: the posterior of the coefficients in closed form."""
    frame, sigma = FRAME, 2.0
    priors = {
        "Intercept": dist.Normal(0, 3),
        "x": dist.Normal(0, 1),
        "a": dist.Normal(0, 2),
        "sigma": dist.TruncatedNormal(sigma, 1e-4, low=0.0),
    }
    posterior = pi.infer(pi.formula("y ~ x + a", priors=priors), frame, pi.NUTS(draws=4000), progress=False)
    matrix = by_hand("Intercept x a[a2] a[a3]")
    centred = np.hstack([matrix[:, :1], matrix[:, 1:] - matrix[:, 1:].mean(axis=0)])
    precision = centred.T @ centred / sigma**2 + np.diag(1 / np.array([3, 1, 2, 2]) ** 2)
    mean = np.linalg.solve(precision, centred.T @ frame.y / sigma**2)
    summary = posterior.summary()
    rows = summary.loc[["Intercept_centred", "x", "a[a_dim=a2]", "a[a_dim=a3]"]]
    z = (rows["mean"] - mean) / rows["mcse_mean"]
    assert np.abs(z).max() < stats.norm.isf(1e-4 / 2 / 4)
    wrong = (rows["mean"] - np.linalg.solve(precision, centred[:, ::-1].T @ frame.y / sigma**2)) / rows["mcse_mean"]
    assert np.abs(wrong).max() > stats.norm.isf(1e-4 / 2 / 4)


# what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said", "caret"),
    [
        ("y ~ x + ", "has its end where a column, a number or a parenthesis was expected", 7),
        ("y ~ x z", "has `z` where an operator or its end was expected", 6),
        ("y ~ x | g", "A group term stands in parentheses", 6),
        ("y + x", "has no `~`", 5),
        ("~ x", "nothing before `~`", 0),
        ("y ~", "nothing after `~`", 3),
        ("y ~ x ~ z", "one `~`", 6),
        ("y ~ (x + 1", "never closed", 4),
        ("y ~ x $ z", "'\\$', which means nothing", 6),
        ("y ~ 'a'", "no texts in a formula", 4),
        ("y ~ x**2", r"Its square is I\(x\*\*2\)", 5),
        ("y ~ 3*x", "3 has no meaning there", 4),
        ("y ~ 2 + x", "A number among the terms is 1", 4),
        ("y ~ log(a:b)", "no meaning inside a function", 9),
        ("y ~ (1 | log(g))", "columns that hold groups", 9),
        ("y ~ x + lgo(x)", "lgo is no function that formulas know; did you mean log", 8),
        ("y ~ __import__(x)", "no function that formulas know", 4),
        ("y ~ log(x, z)", "takes one argument", 4),
        ("y ~ poly(x)", "a column and a degree", 4),
        ("y ~ poly(x, 2, raw=maybe)", "raw is True", 4),
        ("y ~ C(log(x))", "C\\(\\) takes a column", 4),
        ("y ~ x + y", "the outcome, and cannot be a predictor", 8),
        ("log(log(y)) ~ x", "logarithm of a logarithm", 0),
        ("y*2 ~ x", "wanted a column before `~`", 1),
        ("exp(y) ~ x", "it may be a column, or log", 0),
        ("proportion(y, z) ~ x", "outcome of pi.Family.BINOMIAL", 0),
        ("y ~ x + (1 | y)", "cannot be a group of itself", 11),
        ("y ~ x + offset(C(z))", "a factor of its own", 15),
        ("y ~ x:offset(z)", "An offset is a term of its own", 6),
        ("y ~ x + I(2)", "reads no column", 8),
        ("y ~ 0", "has no terms", 5),
    ],
)
def test_texts_that_are_no_formula(text, said, caret):
    with pytest.raises(ModelError, match=said) as caught:
        pi.formula(text)
    *_, shown, mark = str(caught.value).splitlines()
    assert (shown, mark.index("^")) == (f"  {text}", caret + 2)


@pytest.mark.parametrize(
    ("frame", "text", "family", "said"),
    [
        (FRAME, "y ~ lod_uranium", "GAUSSIAN", "no column lod_uranium"),
        (FRAME, "y ~ yaer", "GAUSSIAN", "did you mean year"),
        (FRAME, "y ~ log(a)", "GAUSSIAN", "a holds labels \\('a1'\\), where numbers are wanted"),
        (FRAME, "a ~ x", "GAUSSIAN", "a holds labels, and Family.GAUSSIAN wants numbers"),
        (FRAME, "y ~ x", "POISSON", "y is .* in row .*; Family.POISSON wants whole numbers"),
        (FRAME, "y ~ x", "GAMMA", "wants numbers above zero"),
        (FRAME, "size ~ x", "BETA", "between 0 and 1"),
        (FRAME, "deaths ~ x", "BERNOULLI", "0 and 1, True and False, or two labels"),
        (FRAME, "kind ~ x", "BERNOULLI", "kind has 3 labels, r, s, t; Family.BERNOULLI wants two"),
        (FRAME, "grade ~ x", "CUMULATIVE", r"levels=\{'grade': \[lowest"),
        (FRAME, "proportion(cases, deaths) ~ x", "BINOMIAL", "more successes than trials"),
        (FRAME.assign(w=2 * FRAME.x - 3 * FRAME.z + 1), "y ~ x + z + w", "GAUSSIAN", "w is a sum of multiples of x, z"),
        (FRAME.assign(w=7.0), "y ~ x + w", "GAUSSIAN", "w is the same in every row, and so is the intercept"),
        (FRAME.assign(w=0.0), "y ~ 0 + w", "GAUSSIAN", "w is 0 in every row"),
        (FRAME.assign(w=0.0), "y ~ w", "GAUSSIAN", "w is 0 in every row, .* leave it out"),
        (FRAME[(FRAME.a != "a2") | (FRAME.b != "b2")], "y ~ a*b", "GAUSSIAN", r"a:b\[a2:b2\] is 0 .* or join levels"),
        (FRAME.assign(w="one"), "y ~ w", "GAUSSIAN", "w is 'one' in every row"),
        (FRAME.assign(w="one"), "y ~ (1 | w)", "GAUSSIAN", "w has the one level 'one'"),
        (FRAME.iloc[:3], "y ~ x + z + year", "GAUSSIAN", "3 rows for 4 coefficients"),
        (FRAME.assign(x=FRAME.x.where(FRAME.index != 7)), "y ~ x", "GAUSSIAN", "x is missing in row 7"),
        (FRAME.assign(a=FRAME.a.where(FRAME.index != 7)), "y ~ a", "GAUSSIAN", "a is missing in row 7"),
        (FRAME.assign(y=FRAME.y.where(FRAME.index != 7)), "y ~ a", "GAUSSIAN", "y is missing in row 7"),
        (FRAME.assign(x=FRAME.x.where(FRAME.index != 7, 0)), "y ~ log(x)", "GAUSSIAN", "is -inf in row 7 .* x is 0"),
        (FRAME.assign(x=np.inf), "y ~ x", "GAUSSIAN", "x is inf in row 0"),
        (FRAME.assign(x=np.inf), "y ~ (1 | x)", "GAUSSIAN", "x is inf in row 0 and 47 more .*; wanted a label"),
        (FRAME, "log(y) ~ x", "GAUSSIAN", "log wants numbers above"),
        (FRAME.assign(y=1.0), "y ~ x", "GAUSSIAN", "nothing to explain"),
        (FRAME.assign(d=pd.Timestamp("2024-01-01")), "y ~ d", "GAUSSIAN", "d holds dates"),
        (FRAME.assign(a=pd.Categorical(FRAME.a, ["a3", "a1", "a2"])), "y ~ a", "GAUSSIAN", "order a3, a1, a2"),
        (FRAME.iloc[:0], "y ~ x", "GAUSSIAN", "no rows"),
        ([1, 2], "y ~ x", "GAUSSIAN", "rows came as list"),
        (FRAME, "y ~ poly(c, 2)", "GAUSSIAN", "c holds labels"),
        (FRAME, "y ~ poly(ill, 2)", "GAUSSIAN", "2 different values"),
    ],
)  # fmt: skip
def test_tables_that_do_not_fit(frame, text, family, said):
    with pytest.raises(DataError, match=said):
        pi.formula(text, pi.Family[family]).bind(frame)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"family": "gaussian"}, "wanted a pi.Family, such as pi.Family.POISSON"),
        ({"link": pi.Link.LOG}, "Family.GAUSSIAN has pi.Link.IDENTITY"),
        ({"priors": {"flor": dist.Normal(0, 1)}}, "no such parameter; did you mean floor"),
        ({"priors": {"floor": 1.0}}, "wanted a distribution of NumPyro"),
        ({"priors": [1]}, "priors came as list"),
        ({"levels": {"g": "a1"}}, "wanted its labels in their order"),
        ({"levels": {"a": ["a1", "a2"]}}, "levels has 'a'; the columns of the formula are y, floor, g"),
    ],
)
def test_settings_that_do_not_fit(more, said):
    with pytest.raises(ModelError, match=said):
        pi.formula("y ~ floor + (1|g)", **more)


@pytest.mark.parametrize(
    ("priors", "said"),
    [
        ({"sigma": dist.Normal(0, 1)}, "prior of sigma reaches beyond above 0"),
        ({"g": dist.Normal(0, 1)}, "prior of g reaches beyond above 0"),
        ({"g_corr": dist.Uniform(-2, 2)}, "between -1 and 1"),
        ({"x": dist.Normal(np.zeros(3), 1)}, r"has the shape \(3,\), and x is one number"),
        ({"a": dist.Dirichlet(np.ones(2))}, "wanted a law of single numbers"),
    ],
)
def test_priors_that_do_not_fit(priors, said):
    with pytest.raises(ModelError, match=said):
        settled("y ~ x + a + (1 + x | g)", priors=priors)


def priors_of(bound):
    function = bound.model.fn
    found = {one.name: one.prior.law for one in function.coefficients} | {"Intercept_centred": function.intercept.law}
    found |= {f"{group.name}_sd": group.sd.law for group in function.groups}
    return found | {block.name: block.prior for group in function.groups for block in group.correlated}


def test_centred_coefficients_are_sampled_as_they_are():
    bound = settled("y ~ x + (1 + x || g)", centred=["g"])
    assert {site.name: site.dims for site in bound.latents}["g_effect"] == ("g", "g_term")
    with pytest.raises(ModelError, match="centred has 'h'; the groups of the formula are g"):
        pi.formula("y ~ x + (1 | g)", centred=["h"])
    with pytest.raises(ModelError, match=r"are not correlated; write \|\|"):
        settled("y ~ x + (1 + x | g)", centred=["g"])


def test_levels_of_what_is_read_as_numbers_are_refused():
    with pytest.raises(DataError, match=r"read as numbers; C\(year\) reads it as labels"):
        settled("y ~ year", levels={"year": [2010, 2009, 2011, 2012]})
    names = fixed("y ~ C(year)", levels={"year": [2010, 2009, 2011, 2012]})[1]
    assert names == ["Intercept", "C(year)[2009]", "C(year)[2011]", "C(year)[2012]"]


def test_given_priors_are_taken():
    priors = {
        "Intercept": dist.StudentT(3, 0, 1),
        "a": dist.Laplace(0, np.array([1.0, 2.0])),
        "g": dist.Exponential(3.0),
        "g_corr": dist.Uniform(-0.5, 0.5),
        "sigma": dist.Gamma(2, 2),
    }
    bound = settled("y ~ x + a + (1 + x | g)", priors=priors)
    sites = priors_of(bound)
    assert isinstance(sites["Intercept_centred"], dist.StudentT)
    assert np.allclose(sites["a"].scale, [1, 2])
    assert np.allclose(sites["g_sd"].mean, [1 / 3, 1 / 3])
    assert float(sites["g_corr"].high) == 0.5
    assert np.allclose(sites["x"].scale, 2.5 * FRAME.y.std(ddof=0) / FRAME.x.std(ddof=0))
    by_group = settled("y ~ year + (1 | year)", priors={"year": dist.Normal(0, 9), "year_sd": dist.HalfNormal(4)})
    sites = priors_of(by_group)
    assert float(sites["year"].scale) == 9
    assert float(sites["year_sd"].scale) == 4


def test_names_that_would_be_there_twice_are_refused():
    frame = FRAME.assign(sigma=FRAME.x)
    with pytest.raises(ModelError, match="Two parameters of the model would be called sigma"):
        settled("y ~ sigma", frame=frame)
    with pytest.raises(ModelError, match="differs by g twice"):
        settled("y ~ (1|g) + (1 + x|g)")
    with pytest.raises(ModelError, match=r"write \|\| for \|"):
        settled("kind ~ (1 + x|g)", pi.Family.CATEGORICAL)


def test_the_prior_of_a_positive_outcome_does_not_depend_on_its_unit():
    def middle(text, family, frame):
        return float(pi.formula(text, family).settle(frame).function.intercept.law.loc)

    size = FRAME["size"]
    assert middle("size ~ x", pi.Family.GAMMA, FRAME) == pytest.approx(np.log(size.mean()))
    small = FRAME.assign(size=1e-6 * size)
    assert middle("size ~ x", pi.Family.GAMMA, small) == pytest.approx(np.log(1e-6 * size.mean()))
    assert middle("deaths ~ x", pi.Family.POISSON, FRAME.assign(deaths=0)) == pytest.approx(np.log(0.5 / ROWS))
    exposed = middle("deaths ~ x + offset(log(z))", pi.Family.POISSON, FRAME)
    assert exposed == pytest.approx(np.log(FRAME.deaths.mean() / FRAME.z.mean()))


def test_an_offset_that_is_no_logarithm_is_refused():
    frame = FRAME.assign(population=FRAME.z * 1e5)
    with pytest.raises(DataError, match=r"reaches 8\d{5}, and is on the log scale; did you mean offset\(log\(popu"):
        settled("deaths ~ x + offset(population)", pi.Family.POISSON, frame)
    with pytest.raises(DataError, match=r"offset\(-population\) reaches -8.*, and is on the log scale\."):
        settled("size ~ x + offset(-population)", pi.Family.GAMMA, frame)
    settled("deaths ~ x + offset(log(population))", pi.Family.POISSON, frame)
    settled("y ~ x + offset(population)", frame=frame)  # where it is on the outcome's own scale


def test_priors_of_correlations_that_there_are_none_of_are_refused():
    for text in ("y ~ x + (0 + x | g)", "y ~ x + (1 + x || g) + (0 + z | g)"):
        with pytest.raises(ModelError, match="priors names 'g_corr', and the correlations of g are none"):
            settled(text, priors={"g_corr": dist.Uniform(-0.5, 0.5)})
    with pytest.raises(ModelError, match="priors names 'g_corr_2', and the correlations of g are g_corr"):
        settled("y ~ (1 + x | g) + (0 + z | g)", priors={"g_corr_2": dist.Uniform(-0.5, 0.5)})


def test_priors_of_thresholds_and_correlations_have_their_support():
    def thresholds(prior):
        return settled("grade ~ x", pi.Family.CUMULATIVE, levels=GRADES, priors={"threshold": prior})

    normal = dist.Normal(0, 5).expand([2]).to_event(1)
    with pytest.raises(ModelError, match=r"The prior of threshold is a law on .*Real.*OrderedTransform\(\)\)"):
        thresholds(normal)
    ordered = dist.TransformedDistribution(normal, dist.transforms.OrderedTransform())
    assert thresholds(ordered).model.fn.own["threshold"].law is ordered
    with pytest.raises(ModelError, match=r"wanted one on CorrCholesky\(\), such as dist.LKJCholesky\(3, 1\)"):
        settled("y ~ (1 + x + z | g)", priors={"g_corr": dist.LKJ(3, 1.0)})
    settled("y ~ (1 + x + z | g)", priors={"g_corr": dist.LKJCholesky(3, 2.0)})


@pytest.mark.parametrize(
    ("text", "family", "new", "said"),
    [
        ("deaths ~ x", "POISSON", {"deaths": -1}, "deaths is -1 in row 0 .*; Family.POISSON wants whole numbers"),
        ("size ~ x", "GAMMA", {"size": 0.0}, "size is 0 in row 0"),
        ("log(size) ~ x", "GAUSSIAN", {"size": 0.0}, "size is 0 in row 0"),
        ("kind ~ x", "CATEGORICAL", {"kind": "new"}, "kind is 'new' in row 0 .* training has not seen"),
        ("proportion(deaths, cases) ~ x", "BINOMIAL", {"cases": 0, "deaths": 1}, "more successes than trials"),
        ("y ~ log(z)", "GAUSSIAN", {"z": 0.0}, r"log\(z\) is -inf in row 0 .* where z is 0"),
        ("y ~ x + (1 + log(z) | g)", "GAUSSIAN", {"z": 0.0}, r"log\(z\) is -inf in row 0 .* where z is 0"),
        ("deaths ~ x + offset(log(z))", "POISSON", {"z": 0.0}, r"log\(z\) is -inf in row 0 .* where z is 0"),
        ("deaths ~ x + offset(z)", "POISSON", {"z": 1e5}, r"did you mean offset\(log\(z\)\)"),
        ("y ~ (1 | g:h)", "GAUSSIAN", {"g": "p", "h": "u"}, "g:h is 'p:u' in row 0 .* has not seen"),
    ],
)
def test_rows_that_come_later_are_looked_at_as_well(text, family, new, said):
    frame = FRAME[(FRAME.g != "p") | (FRAME.h != "u")]
    model = pi.formula(text, pi.Family[family]).settle(frame)
    with pytest.raises(DataError, match=said):
        model.bind(frame.iloc[:5].assign(**new))


def test_an_update_refuses_outcomes_that_the_family_does_not_have():
    bound = settled("deaths ~ x", pi.Family.POISSON)
    new = {"x": [3.0, 3.0], "deaths": [2, -1]}
    with pytest.raises(DataError, match=f"deaths is -1 in row {ROWS + 1}"):
        draw_update(bound.model, bound.data, new, {}, pi.SMC(), seed=0, progress=False)


def test_a_declared_level_that_no_row_has_is_named():
    for text in ("y ~ a", "y ~ 0 + x:a", "y ~ a*b"):
        with pytest.raises(DataError, match=r"No row has a = a4, .*; leave 'a4' out of levels="):
            settled(text, levels={"a": ["a1", "a2", "a3", "a4"]})
    settled("y ~ (1 | a)", levels={"a": ["a1", "a2", "a3", "a4"]})  # a group of no rows has the population's law


def test_what_is_said_of_a_number_that_is_not_finite():
    with pytest.raises(DataError, match="; log wants numbers above 0\\."):
        settled("log(y) ~ x")
    frame = FRAME.assign(e=1.0, exp=2.0, z=1e4)
    with pytest.raises(DataError, match=r"exp\(z\) is inf in row 0 and 47 more .*, where z is 10000; wanted"):
        settled("y ~ exp(z) + e + exp", frame=frame)
    with pytest.raises(DataError, match="where price in e is 10000; wanted"):
        settled("y ~ exp(`price in e`) + e", frame=frame.rename(columns={"z": "price in e"}))


def test_classes_may_be_more_than_the_rows_have():
    model = pi.formula("kind ~ x", pi.Family.BERNOULLI).with_classes("kind", ["r", "s"])
    settled = model.settle(FRAME[FRAME.kind == "r"])
    assert settled.fitted.outcomes[0].labels == ("r", "s")
    with pytest.raises(DataError, match=r"kind is 't' in row .*; levels= has r, s"):
        model.settle(FRAME)
