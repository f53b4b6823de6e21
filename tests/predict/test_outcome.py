"""The outcome as a function of one row: right for any rows, and refused where there is no such function.

Each trap was a real bug in a library of the field: stale deterministic sites, parents redrawn from the prior, one noise
draw for all posterior draws, dummy outcomes, unseen groups answered as if known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro.contrib.control_flow import scan

import probinfer as pi
from tests.predict import models as m
from tests.predict.fits import Fit, fitted


def line_means(rows):
    return np.mean(m.LINE["slope"][:, None] * rows, axis=0)


# rows that are not those of training ---------------------------------------------------------------------------------


def test_deterministic_sites_are_computed_from_the_new_rows():
    predictor = fitted(m.grouped, m.GROUPED_DATA, m.GROUPED)
    new = {"x": m.x[:7] + 1.0, "group": m.group[:7][::-1].copy()}
    expected = m.GROUPED["level"][:, new["group"]].mean(0) + new["x"]
    np.testing.assert_allclose(predictor.predict(new).mean, expected, rtol=1e-12)
    np.testing.assert_allclose(
        predictor.predict(new).aleatoric_sd, 1.0, rtol=1e-12
    )  # nothing is redrawn from the prior


def test_other_threads_keep_numpyros_checks_meanwhile(monkeypatch):
    """They are one switch for all threads, and a fold that samples meanwhile needs them: a uniform law has no bounds
    without. A joint law's checks are those that cannot run for any number of rows."""

    def switched(value):
        raise AssertionError(f"NumPyro's checks were switched to {value}.")

    monkeypatch.setattr(dist.Distribution, "set_default_validate_args", switched)
    with pytest.raises(AssertionError), numpyro.validation_enabled(False):
        pass
    predictor = pi.Predictor(Fit(pi.Model(m.multivariate), {"x": m.x, "y": m.wide}, m.MULTIVARIATE))  # made here
    assert predictor.predict({"x": m.x[:2]}).mean.shape == (2, 3)


def test_only_what_the_outcome_reads_is_kept():
    program = fitted(m.grouped, m.GROUPED_DATA, m.GROUPED).program
    assert list(program.draws) == ["level"]
    assert [(i.name, i.dtype, i.low, i.high) for i in program.inputs] == [
        ("x", "float64", None, None),
        ("group", "int64", 0, 4),
    ]
    assert program.constants == {"n_groups": 5}
    assert program.unread == ("y",)


def test_a_plate_sized_by_the_data():
    def model(x, n, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", n):
            numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    predictor = fitted(model, {"x": m.x, "n": m.ROWS, "y": m.y}, {"slope": m.LINE["slope"]})
    np.testing.assert_allclose(predictor.predict({"x": m.x[:3], "n": 3}).mean, line_means(m.x[:3]))
    np.testing.assert_allclose(predictor.predict({"x": m.x[:2]}).mean, line_means(m.x[:2]))
    with pytest.raises(pi.PredictionError, match="n counts the rows: it is 4, but there are 3"):
        predictor.predict({"x": m.x[:3], "n": 4})


def test_as_many_groups_as_rows():
    """n_groups happens to equal the number of rows; it is not one."""
    data = {"x": m.x, "group": np.arange(m.ROWS), "n_groups": m.ROWS, "y": m.y}
    level = m.draws(m.ROWS)
    predictor = fitted(m.grouped, data, {**m.GROUPED, "level": level})
    assert predictor.program.constants == {"n_groups": m.ROWS}
    np.testing.assert_allclose(predictor.predict({"x": [0.0], "group": [17]}).mean, level[:, 17].mean())


def test_an_outcome_that_the_function_cannot_do_without():
    def model(x, y):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)

    predictor = fitted(model, {"x": m.x, "y": m.y}, {"slope": m.LINE["slope"]})
    np.testing.assert_allclose(predictor.predict({"x": m.x[:4]}).mean, line_means(m.x[:4]))


def test_an_outcome_that_is_an_input_of_another():
    def model(x, z=None, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(slope * x, 1.0), obs=z)
            numpyro.sample("y", dist.Normal(slope * z, 1.0), obs=y)

    data = {"x": m.x, "z": m.x + 1.0, "y": m.y}
    latents = {"slope": m.LINE["slope"]}
    assert [i.name for i in fitted(model, data, latents, outcome="y").inputs] == ["z"]
    assert [i.name for i in fitted(model, data, latents, outcome="z").inputs] == ["x"]
    with pytest.raises(pi.ModelError, match=r"has 2 outcomes; name one of them: outcome='z' . 'y'"):
        fitted(model, data, latents)


def test_no_inputs():
    def model(y=None):
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    predictor = fitted(model, {"y": m.y}, {"mu": m.LINE["slope"]})
    np.testing.assert_allclose(predictor.predict({}).mean, [m.LINE["slope"].mean()])
    assert len(predictor.predict({"y": m.y})) == 1


@pytest.mark.parametrize("to_event", [pytest.param(False, marks=pytest.mark.long), True])
def test_several_numbers_a_row(to_event):
    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
        law = dist.Normal(a * x[:, None], 2.0)
        if to_event:
            with numpyro.plate("rows", x.shape[0]):
                numpyro.sample("y", law.to_event(1), obs=y)
        else:
            numpyro.sample("y", law, obs=y)

    predictor = fitted(model, {"x": m.x, "y": m.wide}, {"a": m.draws(3)})
    prediction = predictor.predict({"x": m.x[:2]}, quantiles=(0.5,))
    np.testing.assert_allclose(prediction.mean, m.draws(3).mean(0) * m.x[:2, None])
    assert prediction.quantiles.shape == (2, 3, 1)


def test_arrays_that_are_not_rows_are_fixed():
    def model(x, knots, y=None):
        w = numpyro.sample("w", dist.Normal(0, 1).expand([4]).to_event(1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(jnp.exp(-((x[:, None] - knots) ** 2)) @ w, 1.0), obs=y)

    knots = np.linspace(-2, 2, 4)
    predictor = fitted(model, {"x": m.x, "knots": knots, "y": m.y}, {"w": m.draws(4)})
    expected = np.exp(-((m.x[:3, None] - knots) ** 2)) @ m.draws(4).mean(0)
    np.testing.assert_allclose(predictor.predict({"x": m.x[:3], "knots": knots}).mean, expected, rtol=1e-9)
    with pytest.raises(pi.PredictionError, match="knots is part of the trained model"):
        predictor.predict({"x": m.x[:3], "knots": knots + 1.0})


# levels that training never saw --------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [-1, 5])
def test_an_unseen_group_is_refused(level):
    predictor = fitted(m.grouped, m.GROUPED_DATA, m.GROUPED)
    with pytest.raises(pi.PredictionError, match=rf"group is {level} in row 1 .*never seen. It knows 0 to 4"):
        predictor.predict({"x": [0.0, 0.0], "group": [0, level]})


def one_hot(effects, group):
    return jax.nn.one_hot(group, 5) @ effects


def twice(effects, group):
    return jnp.repeat(effects, 2)[2 * group]


@pytest.mark.parametrize("effect", [one_hot, pytest.param(twice, marks=pytest.mark.long)])
def test_an_unseen_group_is_refused_where_its_range_cannot_be_followed(effect):
    def model(group, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([5]).to_event(1))
        numpyro.sample("y", dist.Normal(effect(a, group), 1.0), obs=y)

    predictor = fitted(model, {"group": m.group, "y": m.y}, {"a": m.draws(5)})
    np.testing.assert_allclose(predictor.predict({"group": [4]}).mean, m.draws(5)[:, 4].mean())
    with pytest.raises(pi.PredictionError, match="It knows 0 to 4"):
        predictor.predict({"group": [5]})


def test_whole_numbers_that_pick_nothing_are_free():
    def model(age, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope * age, 1.0), obs=y)

    predictor = fitted(model, {"age": m.group + 20, "y": m.y}, {"slope": m.LINE["slope"]})
    np.testing.assert_allclose(predictor.predict({"age": [99]}).mean, line_means(99))


# models without an answer for one row --------------------------------------------------------------------------------

SLOPE = {"slope": m.LINE["slope"]}


def standardised(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    numpyro.sample("y", dist.Normal(slope * (x - x.mean()), 1.0), obs=y)


def autoregressive(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    before = jnp.zeros(x.shape[0]) if y is None else jnp.concatenate([jnp.zeros(1), y[:-1]])
    numpyro.sample("y", dist.Normal(slope * before + x, 1.0), obs=y)


def scanned(y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    scan(lambda c, v: (numpyro.sample("y", dist.Normal(slope * c, 1.0), obs=v), None), 0.0, y)


def process(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    kernel = jnp.eye(x.shape[0]) + jnp.exp(-((x[:, None] - x) ** 2))
    numpyro.sample("y", dist.MultivariateNormal(slope * x, kernel), obs=y)


def counted(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0, 1))
    with numpyro.plate("rows", 40):
        numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (standardised, "rows look at one another: batch statistics such as"),
        (autoregressive, "rows look at one another"),
        (scanned, "rows look at one another"),
        (process, "one over all rows together"),
        (counted, r"has the shape \(40,\), not \(1,\). A size written into the model"),
    ],
)
def test_rows_that_are_not_alone_are_refused(model, text):
    data = {"y": m.y} if model is scanned else {"x": m.x, "y": m.y}
    with pytest.raises(pi.ModelError, match=text):
        fitted(model, data, SLOPE)


def test_a_parameter_for_every_row_is_refused():
    def model(x, y=None):
        with numpyro.plate("rows", x.shape[0]):
            effect = numpyro.sample("effect", dist.Normal(0, 1))
            numpyro.sample("y", dist.Poisson(jnp.exp(x + effect)), obs=y)

    with pytest.raises(
        pi.ModelError, match=r"effect \(shape \(40,\)\) changes its shape .* integrate a per-row effect out"
    ):
        fitted(model, {"x": m.x, "y": m.counts}, {"effect": m.draws(m.ROWS)})


def test_sizes_taken_from_values_are_refused():
    def model(group, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([int(group.max()) + 1]))
        numpyro.sample("y", dist.Normal(level[group], 1.0), obs=y)

    with pytest.raises(pi.ModelError, match=r"looks at the values of its data.*must be arguments of their own"):
        fitted(model, {"group": m.group, "y": m.y}, {"level": m.draws(5)})


def test_an_outcome_without_parameters_is_refused():
    def model(x, y=None):
        numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    with pytest.raises(pi.ModelError, match="depends on no latent site"):
        fitted(model, {"x": m.x, "y": m.y}, SLOPE)


def test_no_outcome():
    def model():
        numpyro.sample("slope", dist.Normal(0, 1))

    with pytest.raises(pi.ModelError, match="has no observed site"):
        fitted(model, {}, SLOPE)
    with pytest.raises(pi.ModelError, match="has no observed site 'z'; its outcomes are 'y'"):
        fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, outcome="z")
    with pytest.raises(pi.ModelError, match="came without its model or data"):
        pi.Predictor(Fit(None, None, m.LINE))


def test_a_single_number_is_no_row():
    def model(y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(slope, 1.0), obs=y)

    with pytest.raises(pi.ModelError, match="is a single number"):
        fitted(model, {"y": 1.5}, SLOPE)


# laws without closed form --------------------------------------------------------------------------------------------


def test_laws_outside_the_families():
    programs = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())}).program
    assert programs.family is None
    assert programs.discrete
    assert set(programs.programs) == {"sample", "log_density", "moments"}


def test_exports_are_for_every_platform():
    program = fitted(m.line, {"x": m.x, "y": m.y}, m.LINE).program
    assert program.programs["parameters"].platforms == ("cpu", "cuda", "tpu")
