"""NUTS begun at draws of an approximation: exact as ever, with a short warm-up; and refused where those are far off."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.mcmc.approximate_start import begin
from probinfer.inference.method import Run
from probinfer.inference.progress import make_progress
from probinfer.model.model import Model
from probinfer.model.target import Target
from tests.inference.statistics import assert_moments

D = 8
SCALES = np.exp(np.linspace(-2, 2, D))
MEAN = 10 * SCALES


def uneven(mean, scales):
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real_vector, (), (D,)))
    numpyro.factor("normal", jnp.sum(dist.Normal(mean, scales).log_prob(x)))


DATA = {"mean": MEAN, "scales": SCALES}
SHORT = pi.NUTS(init=pi.Pathfinder(paths=2), warmup=50)


def test_chains_are_exact_after_a_short_warm_up():
    posterior = pi.infer(uneven, DATA, SHORT, progress=False)
    assert_moments(np.asarray(posterior.tree["posterior"]["x"]), MEAN, SCALES, resolution=0.3)
    assert posterior.report.verdict is pi.Verdict.GOOD
    attrs = posterior.tree.attrs
    assert attrs["init"] == "Pathfinder"
    assert "init_refused" not in attrs
    assert '"init": {"method": "Pathfinder", "paths": 2' in attrs["settings"]
    with pytest.raises(AssertionError, match="variance ratio"):
        assert_moments(np.asarray(posterior.tree["posterior"]["x"]), MEAN, 1.2 * SCALES)


def test_it_begins_at_different_draws_in_the_bulk_with_the_scales_of_the_target():
    target = Target(Model(uneven).bind(DATA))
    key = np.array([1, 2], np.uint32)
    run = Run(key, make_progress(False))
    first, again = (begin(pi.Pathfinder(paths=2), target, run, 4, 0) for _ in range(2))
    assert first.positions is not None
    assert first.metric is not None
    assert np.array_equal(first.positions, again.positions)
    assert len(np.unique(first.positions, axis=0)) == 4
    assert np.abs((first.positions - MEAN) / SCALES).max() < 10  # of a law near the target
    assert np.allclose(first.metric.scale, SCALES, rtol=1e-3)


def test_an_approximation_that_is_far_off_is_refused_and_the_report_says_so():
    """Draws thirty times as far from the origin as they should be."""

    def neck():
        v = numpyro.sample("v", dist.Normal(0, 6))
        numpyro.sample("x", dist.Normal(0, jnp.exp(v)).expand([D]).to_event(1))
        numpyro.factor("narrow", -0.5 * jnp.square(v / 0.01))

    class TooWide(pi.Pathfinder):
        def run(self, target, run):
            draws = super().run(target, run)
            return type(draws)(**{**vars(draws), "positions": 30 * draws.positions})

    posterior = pi.infer(neck, {}, pi.NUTS(init=TooWide(paths=2), draws=500), progress=False)
    assert "varies" in posterior.tree.attrs["init_refused"]
    assert "did not begin at the draws of TooWide" in str(posterior.report)
    assert posterior.report.verdict is pi.Verdict.GOOD


@pytest.mark.parametrize("init", [pi.Pathfinder, pi.NUTS(), "pathfinder", pi.Exact()])
def test_what_is_no_approximation_is_refused(init):
    with pytest.raises(pi.MethodError, match=r"init is .*wanted one of pi.Laplace\(\)"):
        pi.NUTS(init=init)
