"""Formulas do not mind the units of columns: tables rescaled and moved have the same posterior, in their units."""

import numpy as np
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.model.recentred import Recentred
from probinfer.model.target import Target
from probinfer.model.trace import UNITS

ROWS = 80
rng = np.random.default_rng(11)
X, LEVEL = rng.normal(size=ROWS), rng.choice(list("abcdef"), ROWS)
EFFECT = dict(zip("abcdef", rng.normal(size=6), strict=True))
ETA = 1 + 2 * X + np.array([EFFECT[level] for level in LEVEL])
NUMBERS = ETA + 0.5 * rng.normal(size=ROWS)
OUTCOMES = {
    pi.Family.GAUSSIAN: NUMBERS,
    pi.Family.STUDENT_T: NUMBERS,
    pi.Family.GAMMA: rng.gamma(3.0, np.exp(ETA / 2) / 3),
    pi.Family.BETA: rng.beta(2.0, 3.0, ROWS),
    pi.Family.BERNOULLI: rng.integers(0, 2, ROWS),
    pi.Family.POISSON: rng.poisson(np.exp(ETA / 2)),
    pi.Family.NEGATIVE_BINOMIAL: rng.poisson(np.exp(ETA / 2)),
    pi.Family.ZERO_INFLATED_POISSON: rng.poisson(np.exp(ETA / 2)),
    pi.Family.CATEGORICAL: rng.choice(["r", "s", "t"], ROWS),
    pi.Family.CUMULATIVE: rng.choice([1, 2, 3], ROWS),
}
REAL, POSITIVE = (pi.Family.GAUSSIAN, pi.Family.STUDENT_T), (pi.Family.GAMMA,)
ODD = [(1e-12, 0.0), (1e-6, 0.0), (1e12, 0.0), (1.0, 1e9)]


def table(y, scale=1.0, offset=0.0, x_scale=1.0, x_offset=0.0):
    return {"x": x_scale * X + x_offset, "g": LEVEL, "y": scale * y + offset if (scale, offset) != (1, 0) else y}


def target(text, family, frame, **more):
    return Target(pi.formula(text, family, **more).bind(frame))


def slopes(text, family, frame, **more):
    """Gradients at points, which have no constant in them that the unit could change."""
    made = target(text, family, frame, **more)
    return np.stack([made.gradient_at(z) for z in np.random.default_rng(1).uniform(-2, 2, (3, made.dim))])


def moves(family):
    """For the table of a family, the hardest first."""
    own = [{"scale": scale, "offset": offset} for scale, offset in ODD if family in REAL]
    own += [{"scale": scale} for scale, offset in ODD if family in POSITIVE and not offset]
    return [*own[::-1], *({"x_scale": scale, "x_offset": offset} for scale, offset in ODD)]


QUICK = [(family, "", moves(family)[:1]) for family in OUTCOMES]
QUICK += [(pi.Family.GAUSSIAN, " + (1 | g)", [{"scale": 1e-12, "x_scale": 1e12}])]
LONG = [(family, group, moves(family)) for family in OUTCOMES for group in ("", " + (1 | g)")]


@pytest.mark.parametrize(
    ("family", "group", "moves"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.long) for case in LONG)]
)
def test_a_point_means_the_same_in_any_unit(family, group, moves):
    """So chains begin alike, step alike and end alike. Rounding of the columns is what is left."""
    text, y = f"y ~ x{group}", OUTCOMES[family]
    plain = slopes(text, family, table(y))
    for move in moves:
        assert np.allclose(slopes(text, family, table(y, **move)), plain, rtol=1e-4, atol=1e-4), move


@pytest.mark.parametrize("centred", [(), ("g",)], ids=["", "centred"])
def test_coefficients_of_groups_have_units_too(centred):
    text = "y ~ x + (x || g)"
    plain = slopes(text, pi.Family.GAUSSIAN, table(NUMBERS), centred=centred)
    other = slopes(text, pi.Family.GAUSSIAN, table(NUMBERS, 1e12, 0.0, 1e-6), centred=centred)
    assert np.allclose(other, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("move", [{"offset": 1e9}, {"scale": 1e12, "x_scale": 1e-6}], ids=str)
def test_correlated_effects_have_units_in_the_coordinates_of_the_chains(move):
    """With the intercept of 1e9 added to each level's, energies would be right to 1e-4 only."""
    plain, other = (
        Recentred(target("y ~ x + (x | g)", pi.Family.GAUSSIAN, frame))
        for frame in (table(NUMBERS), table(NUMBERS, **move))
    )
    points = np.random.default_rng(1).uniform(-2, 2, (3, plain.dim))
    for centring in (0.0, 0.5):
        found = [
            np.stack([made.centred(np.full(made.dim, centring)).gradient_at(z) for z in points])
            for made in (plain, other)
        ]
        assert np.allclose(*found, rtol=1e-5, atol=1e-5)


def test_the_evidence_counts_the_unit():
    """Of a density for numbers a thousand times as large, a thousandth for each row."""
    evidence = [
        pi.infer(pi.formula("y ~ x"), table(NUMBERS, scale), pi.FullRank(), progress=False).tree.attrs
        for scale in (1.0, 1e3)
    ]
    expected = evidence[0]["log_evidence"] - ROWS * np.log(1e3)
    assert abs(evidence[1]["log_evidence"] - expected) < 5 * evidence[0]["log_evidence_mcse"] + 1e-6


def test_a_narrow_prior_of_the_users_says_where_to_begin():
    priors = {"x": dist.Normal(1e-4, 1e-6), "Intercept": dist.Normal(0, 1e6), "sigma": dist.Uniform(0, 10)}
    frame = table(NUMBERS)
    sites = pi.formula("y ~ x", priors=priors).bind(frame)
    trace = sites.simulate({})
    assert np.allclose(trace["x"]["infer"][UNITS], (1e-4, 1e-6))
    assert np.allclose(trace["Intercept_centred"]["infer"][UNITS], (NUMBERS.mean(), NUMBERS.std()))
    assert UNITS not in trace["sigma"]["infer"]  # its bounds say it


CASES = [("y ~ x + (1 | g)", (1.0, 1e9))]
MORE = [(text, move) for text in ("y ~ x", "y ~ x + (1 | g)") for move in ODD if (text, move) not in CASES]


@pytest.mark.parametrize(("text", "move"), [*CASES, *(pytest.param(*case, marks=pytest.mark.long) for case in MORE)])
def test_odd_units_are_sampled_as_others_are(text, move):
    """A chain that began at ±2 in raw units never came near: the verdict was BAD."""
    scale = move[0]
    posterior = pi.infer(pi.formula(text), table(NUMBERS, *move, x_scale=1e9), pi.NUTS(draws=500), progress=False)
    plain = pi.infer(pi.formula(text), table(NUMBERS), pi.NUTS(draws=500), progress=False)
    assert posterior.report.verdict is plain.report.verdict is pi.Verdict.GOOD
    for name, factor in (("x", 1e9 / scale), ("sigma", 1 / scale)):
        found = factor * posterior.tree.posterior[name].to_numpy()
        exact = plain.tree.posterior[name].to_numpy()
        assert abs(found.mean() - exact.mean()) < 0.3 * exact.std()
        assert 0.8 < found.std() / exact.std() < 1.25


METHODS = [pi.Laplace(), pi.Pathfinder(), pi.LowRank(), pi.ManyChains(), pi.Metropolis(), pi.HMC(), pi.SMC(), pi.SGLD()]


@pytest.mark.parametrize("method", [pi.MeanField(), *(pytest.param(each, marks=pytest.mark.long) for each in METHODS)])
def test_other_methods_find_them_too(method):
    frame = table(NUMBERS, 1e-12, 0.0, 1e9)
    posterior = pi.infer(pi.formula("y ~ x"), frame, method, progress=False)
    assert abs(1e21 * float(posterior.tree.posterior["x"].mean()) - 2) < 0.5
    assert posterior.report.verdict > pi.Verdict.BAD
