"""The station behind the real ones: a model, inferred, judged, saved, read again, and handed to ArviZ."""

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.handlers import scope

import probinfer as pi

GROUPS = ["north", "south", "west"]


def model(group, x, y=None):
    with scope(prefix="prior"):
        centre = numpyro.sample("centre", dist.Normal(0, 2))
    with numpyro.plate("region", 3):
        level = numpyro.sample("level", dist.Normal(centre, 1))
    factor = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
    numpyro.deterministic("R", factor @ factor.T)
    with numpyro.plate("row", x.shape[0]):
        numpyro.sample("y", dist.Normal(level[group] + x @ factor @ jnp.ones(2), 2.0), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return {"group": np.arange(30) % 3, "x": rng.normal(size=(30, 2)), "y": rng.normal(size=30)}


@pytest.fixture(scope="module")
def posterior(data):
    return pi.infer(pi.Model(model, coords={"region": GROUPS}), data, pi.NUTS(draws=400), seed=1, progress=False)


def test_names_groups_and_provenance(posterior):
    assert posterior.summary(var_names=["level"]).index.tolist() == [f"level[region={name}]" for name in GROUPS]
    assert set(posterior.latents) == {"prior/centre", "level", "L"}
    tree = posterior.tree
    assert set(tree.children) == {"posterior", "sample_stats", "log_likelihood", "observed_data", "constant_data"}
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["observed_data"]["y"].dims == ("row",)
    assert {"group", "x"} == set(tree["constant_data"].data_vars)
    assert {"seed", "data_hash", "model_fingerprint", "versions", "seconds", "settings"} <= set(tree.attrs)


def test_constants_of_the_model_do_not_spoil_the_verdict(posterior):
    table = posterior.report.table
    assert table.loc[["L[0, 0]", "L[0, 1]", "R[0, 0]", "R[1, 1]"], "r_hat"].isna().all()
    assert posterior.report.verdict is pi.Verdict.GOOD, str(posterior.report)


def test_saved_and_read_again(posterior, data, tmp_path):
    posterior.save(tmp_path / "p.nc")
    loaded = pi.load_posterior(tmp_path / "p.nc", posterior.model, data)
    assert str(loaded.report) == str(posterior.report)
    assert loaded.summary().equals(posterior.summary())
    for name, values in posterior.latents.items():
        np.testing.assert_array_equal(loaded.latents[name], values)


@pytest.mark.parametrize(
    "method",
    [pi.Metropolis(draws=100, warmup=100), pytest.param(pi.MeanField(draws=100), marks=pytest.mark.long)],
    ids=["no gradient", "sample"],
)
def test_the_model_of_any_method_is_known_again(method, tmp_path):
    def coin(y=None):
        p = numpyro.sample("p", dist.Beta(1, 1))
        numpyro.sample("y", dist.Bernoulli(p), obs=y)

    data = {"y": np.array([1, 0, 1, 1])}
    pi.infer(coin, data, method, progress=False).save(tmp_path / "p.nc")
    assert pi.load_posterior(tmp_path / "p.nc", coin, data).model is not None


def test_arviz_on_a_real_tree(posterior):
    assert len(az.summary(posterior.tree, var_names=["level"])) == 3
    assert np.isfinite(az.loo(posterior.tree).elpd)


def test_the_model_and_data_given_must_be_those_inferred_from(posterior, data, tmp_path):
    def other_prior(group, x, y=None):
        with numpyro.handlers.substitute(data={}):
            level = numpyro.sample("level", dist.Normal(0, 5).expand([3]).to_event(1))
        numpyro.sample("y", dist.Normal(level[group], 2.0), obs=y)

    path = tmp_path / "p.nc"
    posterior.save(path)
    with pytest.raises(pi.ArtifactError, match="is the posterior of another model"):
        pi.load_posterior(path, other_prior, data)
    with pytest.raises(pi.ArtifactError, match="is the posterior of other data"):
        pi.load_posterior(path, model, {**data, "y": data["y"] + 1})
    assert pi.load_posterior(path, model, data).model is not None
