"""Binding a NumPyro function to data: sites, shapes, names, and the words of every refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

from probinfer import DataError, LogDensity, Model, ModelError

X = np.linspace(-1, 1, 12).reshape(6, 2)
GROUP = np.array([0, 1, 2, 0, 1, 2])
Y = np.arange(6.0)


def regression(X, group, J, y=None):
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(1))
    with numpyro.plate("county", J):
        alpha = numpyro.sample("alpha", dist.Normal(0, tau))
    mu = numpyro.deterministic("mu", alpha[group] + X @ beta)
    with numpyro.plate("house", len(group)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


DATA = {"X": X, "group": GROUP, "J": 3, "y": Y}


def test_sites_shapes_dims_and_the_outcome():
    bound = Model(regression, coords={"county": ["a", "b", "c"]}, dims={"beta": ["predictor"]}).bind(DATA)
    assert [(s.name, s.shape, s.dims) for s in bound.latents] == [
        ("beta", (2,), ("predictor",)),
        ("tau", (), ()),
        ("alpha", (3,), ("county",)),
    ]
    assert [(s.name, s.dims) for s in bound.deterministics] == [("mu", ("mu_dim_0",))]
    assert [(s.name, s.dims) for s in bound.observed] == [("y", ("house",))]
    assert bound.observed_arguments == {"y": "y"}
    assert bound.coords["county"].tolist() == ["a", "b", "c"]
    assert bound.coords["house"].tolist() == list(range(6))
    assert bound.index_bounds == {"group": (0, 2)}


def test_binding_runs_nothing():
    ran = []

    def model(y):
        m = numpyro.sample("m", dist.Normal(0, 1))
        jax.debug.callback(lambda value: ran.append(value), m)
        numpyro.sample("y", dist.Normal(m, 1), obs=y)

    Model(model).bind({"y": Y})
    assert not ran


def test_simulate_recomputes_deterministic_sites_from_the_data_given():
    bound = Model(regression).bind(DATA)
    values = {"beta": jnp.array([1.0, 2.0]), "tau": jnp.array(1.0), "alpha": jnp.array([10.0, 20.0, 30.0])}
    new = {"X": np.ones((1, 2)), "group": np.array([2])}
    trace = bound.simulate(values, arrays=new, constants={"J": 3})
    np.testing.assert_allclose(trace["mu"]["value"], [33.0])
    np.testing.assert_allclose(trace["y"]["fn"].mean, [33.0])
    assert not trace["y"]["is_observed"]


def test_simulate_never_draws():
    bound = Model(regression).bind(DATA)
    traces = [bound.simulate({}, constants={"J": 3}, arrays={"X": X, "group": GROUP}) for _ in range(2)]
    for name in ("beta", "tau", "alpha", "y"):
        np.testing.assert_array_equal(traces[0][name]["value"], traces[1][name]["value"])


def test_a_function_that_looks_at_the_values_of_its_data():
    def model(group, y=None):
        with numpyro.plate("level", len(np.unique(group))):
            a = numpyro.sample("a", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a[group], 1.0), obs=y)

    bound = Model(model).bind({"group": GROUP, "y": Y})
    assert bound.latents[0].shape == (3,)
    assert bound.arrays == {}


def test_the_outcome_is_found_behind_a_transformation():
    def model(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("log_y", dist.Normal(b * X, 1.0), obs=None if y is None else jnp.log(y))

    assert Model(model).bind({"X": Y, "y": Y + 1}).observed_arguments == {"log_y": "y"}


def replace(**changes):
    return {name: value for name, value in {**DATA, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (replace(y=...) | {"yy": Y}, r"it has no argument 'yy' \(did you mean 'y'\?\)"),
        (replace(group=...), "data lack 'group'"),
        (replace(X=..., x=X), r"it has no argument 'x' \(did you mean 'X'\?\)|data lack 'X'"),
        (replace(y=Y[:-1]), r"Row counts differ \(5, 6\).*need one row for each"),
        (replace(y=Y[:, None]), r"shape \(6, 1\), its distribution \(6,\).*compared with others than its own"),
        (replace(group=GROUP + 1), r"group is an index, valid from 0 to 2, but 2 of 6 .* first group\[2\] = 3"),
        (replace(group=GROUP - 1), r"first group\[0\] = -1"),
    ],
)
def test_data_that_do_not_fit(data, text):
    with pytest.raises(DataError, match=text):
        Model(regression).bind(data)


def test_an_index_counted_from_one_has_its_own_range():
    def model(group, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(a[group - 1], 1.0), obs=y)

    assert Model(model).bind({"group": GROUP + 1, "y": Y}).index_bounds == {"group": (1, 3)}
    with pytest.raises(DataError, match="valid from 1 to 3"):
        Model(model).bind({"group": GROUP, "y": Y})


def test_a_model_that_decides_for_itself_about_unknown_levels_is_left_alone():
    def model(group, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1).expand([3]).to_event(1))
        known = jnp.where(group < 0, 0.0, a[jnp.where(group < 0, 0, group)])
        numpyro.sample("y", dist.Normal(known, 1.0), obs=y)

    assert Model(model).bind({"group": GROUP - 1, "y": Y}).index_bounds == {}


def test_the_users_own_error_is_told_with_its_line_and_no_traceback_from_jax():
    def model(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(jnp.dot(X, jnp.ones(7)) * b, 1.0), obs=y)

    with pytest.raises(
        ModelError, match=r"The model raised TypeError: .*jnp.dot.*Shapes of the data: X \(6, 2\)"
    ) as caught:
        Model(model).bind({"X": X, "y": Y})
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def no_latent(y=None):
    numpyro.sample("y", dist.Normal(0, 1), obs=y)


def subsampled(y):
    m = numpyro.sample("m", dist.Normal(0, 1))
    with numpyro.plate("row", 6, subsample_size=2) as index:
        numpyro.sample("y", dist.Normal(m, 1), obs=y[index])


def with_param(y):
    m = numpyro.param("m", 0.0)
    numpyro.sample("y", dist.Normal(m, 1), obs=y)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (no_latent, r"no latent site \(its sites: y\).*nothing to infer"),
        (subsampled, "plate 'row' subsamples 2 of 6 rows"),
        (with_param, "'m' is a numpyro.param site, which has no prior"),
    ],
)
def test_models_that_cannot_be_used(model, text):
    with pytest.raises(ModelError, match=text):
        Model(model).bind({"y": Y})


def test_a_model_that_is_no_function():
    with pytest.raises(ModelError, match="model came as int; wanted a NumPyro function"):
        Model(3)


def test_labels_that_do_not_fit():
    with pytest.raises(ModelError, match="coords has 2 labels for 'county', but 'alpha' has 3 entries"):
        Model(regression, coords={"county": ["a", "b"]}).bind(DATA)
    with pytest.raises(ModelError, match="dims names 2 axes of 'beta'"):
        Model(regression, dims={"beta": ["p", "q"]}).bind(DATA)


def test_log_density_refuses_unclear_shapes():
    with pytest.raises(ModelError, match=r"either dim=, .* or shapes="):
        LogDensity(lambda x: 0.0)
    with pytest.raises(ModelError, match="dim is 0; wanted a whole number"):
        LogDensity(lambda x: 0.0, 0)
    with pytest.raises(ModelError, match=r"supports names \['s'\]"):
        LogDensity(lambda x: 0.0, shapes={"mu": ()}, supports={"s": dist.constraints.positive})
    with pytest.raises(ModelError, match=r"returned an array of shape \(3,\); wanted one number"):
        LogDensity(lambda x: x, 3).bind()


def test_a_model_that_cannot_do_without_rows_says_that_there_are_none():
    def plated(x, y=None):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(x)):
            numpyro.sample("y", dist.Normal(b * x, 1.0), obs=y)

    with pytest.raises(DataError, match=r"There are no rows in x, y, and this model needs some"):
        Model(plated).bind({"x": np.zeros(0), "y": np.zeros(0)})
