"""Posterior: what is computed when, the summary, and the file."""

import errno
import json
import os
import re
import subprocess
import sys

import arviz as az
import numpy as np
import pytest
import xarray as xr

from probinfer.errors import ArtifactError, MethodError, ModelError
from probinfer.inference.draws import Outcome
from probinfer.posterior import storage
from probinfer.posterior.posterior import Posterior, load_posterior
from probinfer.posterior.verdict import Verdict
from tests.posterior.runs import FakeTarget, good_stats, make_draws, make_posterior


def make(rng, *, draws=200, **about):
    target = FakeTarget(
        {"mu": (), "alpha": (3,)},
        dims={"alpha": ["county"], "y": ["row"]},
        coords={"county": ["AITKIN", "ANOKA", "ÅLAND"]},
        observed={"y": rng.normal(size=8)},
        constant={"group": np.arange(8), "treated": np.arange(8) % 2 == 0},
        double=True,
    )
    return make_posterior(rng.normal(size=(4, draws, 4)), good_stats(rng, 4, draws), target, **about), target


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def posterior(rng):
    return make(rng)[0]


# ---- what is computed when


def test_the_verdict_needs_no_log_likelihood(rng):
    posterior, target = make(rng)
    assert posterior.report.verdict is Verdict.GOOD
    assert "GOOD" in repr(posterior)
    posterior._repr_html_()
    assert target.log_likelihood_calls == 0
    assert posterior.tree is posterior.tree
    assert target.log_likelihood_calls == 1


def test_the_verdict_needs_neither_xarray_nor_pandas():
    """They take longer to import than many a run takes."""
    code = (
        "import sys, numpy as np; from tests.posterior.runs import make_posterior;"
        "print(make_posterior(np.random.default_rng(0).normal(size=(4, 500, 2))).report.verdict.name,"
        " sorted({'xarray', 'pandas', 'arviz_base', 'arviz_stats', 'arviz', 'h5netcdf'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "GOOD []"


def test_latents_are_flat_and_have_no_deterministic_sites(posterior):
    values = posterior.tree["posterior"]["alpha"].values
    assert set(posterior.latents) == {"mu", "alpha"}
    np.testing.assert_array_equal(posterior.latents["alpha"], values.reshape(800, 3))


def test_latents_of_independent_draws_and_names_with_slashes(rng):
    x = rng.normal(size=(50, 2))
    posterior = make_posterior(x, target=FakeTarget({"block/x": (2,)}))
    np.testing.assert_array_equal(posterior.latents["block/x"], x)
    assert set(Posterior.from_tree(posterior.tree).latents) == {"block/x"}


def test_model_and_data_are_kept(rng):
    draws, target = make_draws(rng.normal(size=(4, 50, 1))), FakeTarget({"x": ()})
    posterior = Posterior.from_draws(draws, target, model="model", data={"y": 1}, attrs={})
    assert (posterior.model, posterior.data) == ("model", {"y": 1})


# ---- summary


def test_summary_agrees_with_arviz(posterior):
    ours, theirs = posterior.summary(), az.summary(posterior.tree, round_to="none")
    assert list(ours.columns) == list(theirs.columns)
    assert ours.index.tolist() == [
        "mu", "alpha[county=AITKIN]", "alpha[county=ANOKA]", "alpha[county=ÅLAND]", "twice_mu",
    ]  # fmt: skip
    tail = az.ess(posterior.tree, method="tail", prob=(0.05, 0.95))  # az.summary takes the 11% and 89% quantiles
    theirs["ess_tail"] = [tail["mu"].item(), *tail["alpha"].values, tail["twice_mu"].item()]
    np.testing.assert_allclose(ours.to_numpy(), theirs.to_numpy(dtype=float), rtol=1e-10)


@pytest.mark.parametrize(("level", "name"), [(0.5, "eti50"), (0.29, "eti29"), (0.955, "eti95.5"), (0.999, "eti99.9")])
def test_the_level_is_in_the_column_names(posterior, level, name):
    summary = posterior.summary(level=level)
    mu = posterior.latents["mu"]
    expected = np.quantile(mu, [(1 - level) / 2, (1 + level) / 2])
    np.testing.assert_allclose(summary.loc["mu", [f"{name}_lb", f"{name}_ub"]].to_numpy(dtype=float), expected)


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, True, float("nan"), 89])
def test_a_level_that_is_no_probability_is_refused(posterior, level):
    with pytest.raises(MethodError, match=re.escape(f"level is {level!r}; an interval's level is a probability")):
        posterior.summary(level=level)


def test_variables_can_be_chosen(posterior):
    assert posterior.summary(var_names="mu").index.tolist() == ["mu"]
    assert posterior.summary(var_names=["twice_mu", "mu"]).index.tolist() == ["twice_mu", "mu"]
    whole = posterior.summary()
    np.testing.assert_array_equal(posterior.summary(var_names=["alpha"]).to_numpy(), whole.iloc[1:4].to_numpy())


def test_an_unknown_variable_is_refused(posterior):
    with pytest.raises(ModelError, match=r"no variable 'alpa', it has mu, alpha, twice_mu\. Did you mean 'alpha'"):
        posterior.summary(var_names=["mu", "alpa"])


def test_deterministic_sites_beyond_the_limit_are_there_when_asked_for(rng):
    posterior = make_posterior(rng.normal(size=(2, 40, 2001)), target=FakeTarget({"x": (2001,)}, double=True))
    assert len(posterior.summary()) == 2001
    assert len(posterior.summary(var_names="twice_x")) == 2001


def test_summary_without_draws(rng):
    summary = make_posterior(np.zeros((4, 0, 2)), outcome=Outcome.INTERRUPTED).summary()
    assert summary.isna().all(axis=None)


# ---- how it shows itself


def test_repr_is_short(posterior):
    assert repr(posterior) == "Posterior(GOOD: NUTS, 4 chains × 200 draws, 5 parameters, 0.875 s)"


def test_html_shows_verdict_table_and_provenance(rng):
    posterior, _ = make(rng, attrs={"versions": {"jax": "0.12.0"}, "data_hash": "<deadbeef>"})
    html = posterior._repr_html_()
    for part in ("✓ GOOD", "eti89_lb", "alpha[county=ÅLAND]", "jax version", "0.12.0", "&lt;deadbeef&gt;"):
        assert part in html
    assert "target_accept" in html
    assert "<deadbeef>" not in html


def test_html_marks_what_failed_and_stops_somewhere(rng):
    x = rng.normal(size=(4, 200, 40))
    x[0, :, 0] += 6
    html = make_posterior(x)._repr_html_()
    assert "class=mark" in html
    assert "16 more rows" in html


# ---- the file


def equal(a: xr.DataTree, b: xr.DataTree) -> None:
    xr.testing.assert_identical(a["posterior"].to_dataset().drop_attrs(), b["posterior"].to_dataset().drop_attrs())
    for group in a.children:
        for name, array in a[group].to_dataset().variables.items():
            other = b[group].to_dataset().variables[name]
            assert array.dtype == other.dtype, (group, name)
            assert array.dims == other.dims
            np.testing.assert_array_equal(array.values, other.values)


def test_round_trip_is_exact(posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    posterior.save(path)
    loaded = load_posterior(path)
    equal(posterior.tree, loaded.tree)
    assert set(loaded.tree.children) == set(posterior.tree.children)
    assert {**posterior.tree.attrs, "draws_sha256": loaded.tree.attrs["draws_sha256"]} == loaded.tree.attrs
    assert str(loaded.report) == str(posterior.report)
    assert loaded.summary().equals(posterior.summary())
    assert (loaded.model, loaded.data) == (None, None)
    for name, values in posterior.latents.items():
        np.testing.assert_array_equal(loaded.latents[name], values)


@pytest.mark.parametrize("values", [np.nan, np.inf, -0.0, 5e-324, 0.1 + 0.2])
def test_every_float_survives(values, tmp_path):
    x = np.random.default_rng(1).normal(size=(2, 10, 1))
    x[0, 0, 0] = values
    posterior = make_posterior(x)
    posterior.save(tmp_path / "p.nc")
    got = load_posterior(tmp_path / "p.nc").latents["x"]
    assert got.tobytes() == posterior.latents["x"].tobytes()


def test_independent_draws_round_trip(rng, tmp_path):
    posterior = make_posterior(rng.normal(size=(30, 2)), attrs={"exact": True})
    posterior.save(tmp_path / "p.nc")
    loaded = load_posterior(tmp_path / "p.nc")
    equal(posterior.tree, loaded.tree)
    assert str(loaded.report) == str(posterior.report)


def test_no_draws_round_trip(tmp_path):
    posterior = make_posterior(np.zeros((4, 0, 2)), outcome=Outcome.INTERRUPTED)
    posterior.save(tmp_path / "p.nc")
    assert load_posterior(tmp_path / "p.nc").report.verdict is Verdict.BAD


def test_others_read_the_file_as_it_is(posterior, tmp_path):
    path = tmp_path / "posterior.nc"
    posterior.save(path)
    with xr.open_datatree(path) as tree:
        assert tree["posterior"]["alpha"].dims == ("chain", "draw", "county")
    assert len(az.summary(az.from_netcdf(str(path)), var_names=["mu"])) == 1


def test_the_file_is_closed_and_can_be_replaced(posterior, rng, tmp_path):
    path = tmp_path / "posterior.nc"
    posterior.save(path)
    loaded = load_posterior(path)
    other = make(np.random.default_rng(9))[0]
    other.save(path)
    np.testing.assert_array_equal(loaded.latents["mu"], posterior.latents["mu"])
    np.testing.assert_array_equal(load_posterior(path).latents["mu"], other.latents["mu"])
    assert os.listdir(tmp_path) == ["posterior.nc"]


def test_groups_that_the_user_added_are_saved(posterior, tmp_path):
    posterior.tree["prior"] = xr.DataTree(xr.Dataset({"mu": (("chain", "draw"), np.zeros((1, 5)))}))
    posterior.save(tmp_path / "p.nc")
    assert load_posterior(tmp_path / "p.nc").tree["prior"]["mu"].shape == (1, 5)


def test_a_link_stays_a_link(posterior, tmp_path):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link.nc"
    link.symlink_to(tmp_path / "real" / "p.nc")
    posterior.save(link)
    assert link.is_symlink()
    load_posterior(tmp_path / "real" / "p.nc")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(posterior, tmp_path, monkeypatch, failing):
    path = tmp_path / "posterior.nc"
    posterior.save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(storage.os, failing, full)
    other = make(np.random.default_rng(9))[0]
    with pytest.raises(OSError, match=r"No space left on device\. The file that was there is unchanged") as caught:
        other.save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["posterior.nc"]


@pytest.mark.skipif(os.name != "posix", reason="limits a process's file size by setrlimit")
def test_a_write_that_the_system_refuses_leaves_nothing_behind(posterior, tmp_path):
    """For real: the kernel cuts the file off after 4096 bytes."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OSError, match=r"could not save the posterior.*Nothing was written\.") as caught:
            posterior.save(tmp_path / "p.nc")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []


def test_a_missing_folder_is_named(posterior, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere\. Make it first"):
        posterior.save(tmp_path / "nowhere" / "p.nc")


# ---- files that cannot be loaded


def test_a_missing_file(tmp_path):
    with pytest.raises(ArtifactError, match=r"nothing\.nc does not exist; wanted a file written by posterior\.save"):
        load_posterior(tmp_path / "nothing.nc")
    with pytest.raises(ArtifactError, match="is a folder; wanted a file"):
        load_posterior(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + b"\0" * 500], ids=["empty", "text", "stub"])
def test_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "p.nc"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="is not a NetCDF file, or a damaged one"):
        load_posterior(path)


def test_every_truncation_and_every_flipped_byte_of_a_draw_is_noticed(posterior, tmp_path):
    path = tmp_path / "p.nc"
    posterior.save(path)
    whole = path.read_bytes()
    for cut in np.linspace(0, len(whole) - 1, 12, dtype=int):
        path.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError):
            load_posterior(path)
    draw = np.float64(posterior.latents["mu"][100]).tobytes()
    at = whole.index(draw)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(ArtifactError, match="the draws in it are not those that were saved"):
        load_posterior(path)


@pytest.mark.long
def test_random_damage_never_gives_other_draws_and_never_another_error(posterior, tmp_path):
    """A byte anywhere in the file set to another value: either ArtifactError, or the very same draws."""
    path = tmp_path / "p.nc"
    posterior.save(path)
    whole, rng = path.read_bytes(), np.random.default_rng(2)
    for at in rng.integers(0, len(whole), 30):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ int(rng.integers(1, 256))]) + whole[at + 1 :])
        try:
            loaded = load_posterior(path)
        except ArtifactError:
            continue
        assert all(np.array_equal(loaded.latents[name], values) for name, values in posterior.latents.items())


def change_attribute(posterior, path, name, value):
    posterior.save(path)
    with xr.open_datatree(path, engine="h5netcdf") as stored:
        tree = stored.load().copy(deep=True)
    tree.attrs = {key: item for key, item in {**tree.attrs, name: value}.items() if item is not None}
    tree.to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("probinfer_format", None, "not a posterior of probinfer: it has no attribute 'probinfer_format'"),
        ("probinfer_format", 99, "has format version 99, this probinfer reads 1 to 1.*install that version or a later"),
        ("settings", "{", "the attribute 'settings' is not JSON"),
        ("outcome", "exploded", "the attribute 'outcome' is 'exploded', wanted one of completed, interrupted"),
    ],
)
def test_a_file_with_wrong_attributes(posterior, tmp_path, name, value, text):
    path = tmp_path / "p.nc"
    change_attribute(posterior, path, name, value)
    with pytest.raises(ArtifactError, match=text):
        load_posterior(path)


def test_a_foreign_netcdf_file(tmp_path):
    path = tmp_path / "p.nc"
    xr.Dataset({"x": 1.0}).to_netcdf(path, engine="h5netcdf")
    with pytest.raises(ArtifactError, match="not a posterior of probinfer"):
        load_posterior(path)


def test_provenance_survives(rng, tmp_path):
    posterior, _ = make(rng, attrs={"versions": {"jax": "0.12"}})
    posterior.save(tmp_path / "p.nc")
    attrs = load_posterior(tmp_path / "p.nc").tree.attrs
    assert json.loads(attrs["versions"]) == {"jax": "0.12"}
    assert attrs["seed"] == 3
    assert attrs["method"] == "NUTS"
