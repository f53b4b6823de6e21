"""The tree: ArviZ's schema, names that any model may have, and ArviZ's own functions on it."""

import json

import arviz as az
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from probinfer.errors import ModelError
from probinfer.inference.draws import Outcome
from probinfer.posterior import datatree
from probinfer.posterior.datatree import to_datatree
from tests.posterior.runs import FakeSite, FakeTarget, good_stats, make_draws


@pytest.fixture(scope="module")
def target():
    rng = np.random.default_rng(0)
    return FakeTarget(
        {"mu": (), "alpha": (3,)},
        dims={"alpha": ["county"], "y": ["row"], "votes": ["row"], "twice_mu": []},
        coords={"county": ["AITKIN", "ANOKA", "HENNEPIN"], "row": np.arange(8)},
        observed={"y": rng.normal(size=8), "votes": rng.normal(size=8)},
        constant={"X": rng.normal(size=(8, 2)), "county": np.array([0, 1, 2, 0, 1, 2, 0, 1]), "J": np.asarray(3)},
        double=True,
    )


@pytest.fixture(scope="module")
def tree(target):
    rng = np.random.default_rng(1)
    draws = make_draws(0.3 * rng.normal(size=(4, 250, 4)), good_stats(rng, 4, 250))
    return to_datatree(draws, target, {"seed": 3, "data_hash": "abc", "versions": {"jax": "0.12"}})


def test_groups_and_dims(tree):
    assert set(tree.children) == {"posterior", "sample_stats", "log_likelihood", "observed_data", "constant_data"}
    posterior = tree["posterior"]
    assert posterior["mu"].dims == ("chain", "draw")
    assert posterior["alpha"].dims == ("chain", "draw", "county")
    assert posterior["county"].values.tolist() == ["AITKIN", "ANOKA", "HENNEPIN"]
    assert list(posterior.data_vars) == ["mu", "alpha", "twice_mu"]
    assert [posterior[name].attrs["kind"] for name in posterior.data_vars] == ["latent", "latent", "deterministic"]
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert set(tree["log_likelihood"].data_vars) == {"y", "votes"}
    assert tree["observed_data"]["y"].dims == ("row",)
    assert tree["constant_data"]["X"].dims == ("X_dim_0", "X_dim_1")
    assert tree["constant_data"]["county"].dims == ("county_dim_0",)
    assert tree["constant_data"]["J"].item() == 3
    assert tree["sample_stats"]["diverging"].dtype == bool


def test_attributes(tree):
    for attrs in (tree.attrs, tree["posterior"].attrs):
        assert attrs["creation_library"] == attrs["inference_library"] == "probinfer"
        assert attrs["sample_dims"] == ["chain", "draw"]
        assert {"created_at", "inference_library_version"} <= set(attrs)
    assert tree.attrs["method"] == "NUTS"
    assert json.loads(tree.attrs["settings"])["target_accept"] == 0.8
    assert json.loads(tree.attrs["seconds"]) == {"compile": 0.5, "warmup": 0.25, "sampling": 0.125}
    assert json.loads(tree.attrs["versions"]) == {"jax": "0.12"}
    assert tree.attrs["seed"] == 3
    assert tree.attrs["data_hash"] == "abc"
    assert tree.attrs["outcome"] == "completed"
    assert all(isinstance(value, str | int | float | list) for value in tree.attrs.values())


def test_attributes_become_text_and_numbers():
    draws = make_draws(np.zeros((2, 5, 1)), settings={"path": np.float64(0.5), "outcome": Outcome.COMPLETED})
    attrs = {"a": None, "b": True, "c": np.int64(3), "d": Outcome.INTERRUPTED, "e": np.arange(2), "f": object}
    tree = to_datatree(draws, FakeTarget({"x": ()}), attrs)
    assert "a" not in tree.attrs
    assert [tree.attrs[name] for name in "bcde"] == [1, 3, "interrupted", "[0, 1]"]
    assert tree.attrs["f"] == json.dumps(repr(object))
    assert json.loads(tree.attrs["settings"]) == {"path": 0.5, "outcome": "completed"}


def test_independent_draws_have_no_chains(target):
    tree = to_datatree(make_draws(np.zeros((7, 4))), target, {})
    assert tree["posterior"]["alpha"].dims == ("sample", "county")
    assert tree["log_likelihood"]["y"].dims == ("sample", "row")
    assert tree.attrs["sample_dims"] == ["sample"]


def test_a_large_log_likelihood_is_left_out(target, monkeypatch):
    draws = make_draws(np.zeros((2, 10, 4)))
    monkeypatch.setattr(datatree, "MAX_LOG_LIKELIHOODS", 2 * 10 * 16)  # two observed sites of 8 rows
    assert "log_likelihood" in to_datatree(draws, target, {}).children
    monkeypatch.setattr(datatree, "MAX_LOG_LIKELIHOODS", 2 * 10 * 16 - 1)
    calls = target.log_likelihood_calls
    tree = to_datatree(draws, target, {})
    assert "log_likelihood" not in tree.children
    assert tree.attrs["log_likelihood"] == "left out: 16 observations for each draw are more than 319 numbers"
    assert target.log_likelihood_calls == calls


def test_a_target_without_data_has_no_groups_for_them():
    tree = to_datatree(make_draws(np.zeros((2, 5, 1))), FakeTarget({"x": (1,)}), {})
    assert set(tree.children) == {"posterior"}


def names_of(shapes, **about):
    draws = make_draws(np.zeros((2, 6, sum(int(np.prod(s, dtype=int)) for s in shapes.values()))))
    return to_datatree(draws, FakeTarget(shapes, **about), {})["posterior"]


def test_slashes_become_dots():
    posterior = names_of({"block/alpha": (2,), "beta": ()}, dims={"block/alpha": ["block/group"]})
    assert list(posterior.data_vars) == ["block.alpha", "beta"]
    assert posterior["block.alpha"].dims[-1] == "block.group"
    assert posterior["block.alpha"].attrs["site"] == "block/alpha"
    assert "site" not in posterior["beta"].attrs


def test_names_that_a_slash_makes_equal_are_refused():
    with pytest.raises(ModelError, match=r"sites a\.b, a/b would have one name.*Rename one"):
        names_of({"a/b": (), "a.b": ()})


@pytest.mark.parametrize(
    ("shapes", "dims", "expected"),
    [
        ({"x": (2,)}, {"x": ["x"]}, ("x_dim",)),  # a dimension called like a variable
        ({"x": (2,)}, {"x": ["draw"]}, ("draw_dim",)),  # a plate that ArviZ would take for draws
        ({"x": (2, 2)}, {"x": ["g", "g"]}, ("g", "g_2")),  # a covariance matrix
        ({"x": (2, 3)}, {"x": ["g"]}, ("g", "x_dim_1")),  # an event axis without a name
        ({"x": (2, 3)}, {"x": [None, "g"]}, ("x_dim_0", "g")),
        ({"y": (3,), "x": (2,)}, {"y": ["g"], "x": ["g"]}, ("x_dim_0",)),  # two lengths of one name
        ({"x": ()}, {"x": []}, ()),
    ],
)
def test_dims_that_a_dataset_cannot_hold_are_renamed(shapes, dims, expected):
    assert names_of(shapes, dims=dims)["x"].dims == ("chain", "draw", *expected)


def test_both_axes_of_a_matrix_keep_their_labels():
    posterior = names_of({"S": (2, 2)}, dims={"S": ["g", "g"]}, coords={"g": ["a", "b"]})
    assert posterior["g_2"].values.tolist() == ["a", "b"]


def test_labels_of_another_length_are_not_used():
    posterior = names_of({"x": (2,)}, dims={"x": ["g"]}, coords={"g": ["a", "b", "c"]})
    assert posterior["g"].values.tolist() == [0, 1]


def test_labels_of_mixed_type_become_text():
    posterior = names_of({"x": (2,)}, dims={"x": ["g"]}, coords={"g": np.array(["a", 3], dtype=object)})
    assert posterior["g"].values.tolist() == ["a", "3"]


# What a user does next, with ArviZ as it is installed.


def test_arviz_summary(tree):
    summary = az.summary(tree, var_names=["mu", "alpha"])
    assert summary.index.tolist() == ["mu", "alpha[AITKIN]", "alpha[ANOKA]", "alpha[HENNEPIN]"]
    assert {"eti89_lb", "ess_bulk", "r_hat"} <= set(summary.columns)


def test_arviz_ess_and_rhat(tree):
    assert az.ess(tree)["alpha"].dims == ("county",)
    assert az.rhat(tree)["mu"].item() < 1.05


def test_arviz_loo_and_compare(tree):
    results = {name: az.loo(tree, var_name=name) for name in ("y", "votes")}
    assert np.isfinite(results["y"].elpd)
    comparison = az.compare({"one": az.loo(tree, var_name="y"), "two": az.loo(tree, var_name="y")})
    assert set(comparison.index) == {"one", "two"}


def test_arviz_hdi(tree):
    assert az.hdi(tree, prob=0.9)["alpha"].dims == ("county", "ci_bound")


@pytest.mark.parametrize("plot", ["plot_trace_dist", "plot_forest", "plot_energy", "plot_rank"])
def test_arviz_plots(tree, plot):
    getattr(az, plot)(tree, **({} if plot == "plot_energy" else {"var_names": ["mu", "alpha"]}))
    plt.close("all")


def test_arviz_plots_and_summary_of_independent_draws(target):
    draws = make_draws(np.random.default_rng(2).normal(size=(500, 4)))
    tree = to_datatree(draws, target, {})
    assert len(az.summary(tree, sample_dims=["sample"], kind="stats", var_names=["mu"])) == 1
    az.plot_forest(tree, sample_dims=["sample"], var_names=["mu"])
    plt.close("all")


def test_the_tree_is_an_ordinary_one(tree):
    assert isinstance(tree, xr.DataTree)
    assert tree["posterior"].to_dataset().sizes == {"chain": 4, "draw": 250, "county": 3}
    assert FakeSite("mu", ()).shape == ()
