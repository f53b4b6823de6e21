"""The sampler from outside: settings, seeds, compilations, Ctrl-C, and what is refused before any work."""

import json
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.inference.draw import draw
from probinfer.inference.mcmc import block, chains, compiled, run, warmup
from probinfer.inference.mcmc.warmup import WARMUP
from probinfer.model import target
from tests.inference.models import EIGHT_SCHOOLS as DATA
from tests.inference.models import eight_schools

SMALL = pi.NUTS(chains=2, draws=150, warmup=100)


def positions(method=SMALL, seed=0, data=DATA):
    return draw(eight_schools, data, method, seed=seed, progress=False)[0].positions


def test_draws_carry_the_statistics_of_the_schema():
    draws, _, attributes = draw(eight_schools, DATA, SMALL, progress=False)
    assert draws.positions.shape == (2, 150, 10)
    assert set(draws.stats) >= {
        *("lp", "acceptance_rate", "step_size", "tree_depth", "n_steps"),
        *("diverging", "energy", "reached_max_treedepth"),
    }
    assert all(values.shape == (2, 150) for values in draws.stats.values())
    assert draws.stats["diverging"].dtype == bool
    assert (draws.stats["n_steps"] >= 1).all()
    assert (draws.stats["n_steps"] < 2 ** (draws.stats["tree_depth"])).all()
    assert np.unique(draws.stats["step_size"]).size == 1
    assert json.loads(attributes["settings"])["warmup"] == 100
    assert json.loads(attributes["seed"]) == 0
    assert json.loads(attributes["versions"])["jax"] == jax.__version__


def test_lp_is_the_log_density_of_the_draw():
    draws, target, _ = draw(eight_schools, DATA, SMALL, progress=False)
    with target.precision():
        z = jnp.asarray(draws.positions[1, 77])
        np.testing.assert_allclose(target.log_density(z, target.inputs), draws.stats["lp"][1, 77], rtol=1e-10)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    np.testing.assert_array_equal(positions(seed=3), positions(seed=3))
    assert not np.array_equal(positions(seed=3), positions(seed=4))
    key = jax.random.key(3)
    np.testing.assert_array_equal(positions(seed=key), positions(seed=key))
    assert not np.array_equal(positions(seed=key), positions(seed=jax.random.key(4)))


def test_chains_differ_from_each_other():
    first, second = positions()
    assert not np.isclose(first, second).all(axis=-1).any()


def test_draws_do_not_depend_on_threads_or_on_where_blocks_end(monkeypatch):
    expected = positions()
    monkeypatch.setattr(chains, "_cores", lambda: 1)
    monkeypatch.setattr(chains, "_PAUSE", 1e-9)
    monkeypatch.setattr(chains, "_PATIENCE", 7)
    np.testing.assert_array_equal(positions(), expected)


@pytest.mark.long
def test_draws_do_not_depend_on_where_blocks_end_when_rounding_depends_on_fusion(monkeypatch):
    """A matrix product compiled outside the loop and inside it may differ in the last bit."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(200, 30))

    def logistic(X, y=None):
        b = numpyro.sample("b", dist.Normal(0, 5).expand([X.shape[1]]))
        numpyro.sample("y", dist.Bernoulli(logits=X @ b), obs=y)

    data = {"X": X, "y": (X[:, 0] > rng.normal(size=200)).astype(int)}

    def drawn(pause, patience):
        monkeypatch.setattr(chains, "_PAUSE", pause)
        monkeypatch.setattr(chains, "_PATIENCE", patience)
        return draw(logistic, data, pi.NUTS(chains=2, draws=100, warmup=60), progress=False)[0].positions

    whole = drawn(pause=1e9, patience=10**8)
    np.testing.assert_array_equal(drawn(pause=1e-9, patience=7), whole)


def test_more_draws_continue_the_same_chain():
    np.testing.assert_array_equal(positions(pi.NUTS(chains=2, draws=220, warmup=100))[:, :150], positions())


def test_new_data_of_the_same_shapes_compile_nothing(monkeypatch):
    positions()
    before = dict(target._programs)
    traced = []

    def make_block(*settings):
        made = block.make_block(*settings)
        return lambda *arguments: traced.append(settings) or made(*arguments)

    monkeypatch.setattr(compiled, "make_block", make_block)
    other = pi.NUTS(chains=3, draws=20, warmup=30, parallel=pi.Parallel.THREADS)
    positions(data={**DATA, "y": DATA["y"] + 1}, seed=9, method=other)
    assert not traced
    assert target._programs.keys() == before.keys()
    positions(data={name: column[:7] for name, column in DATA.items()})
    assert len(traced) == 1


def test_an_edited_model_is_compiled_anew():
    """The stale-program trap: the same function object, a global changed underneath it."""
    settings = {"scale": 1.0}

    def model(y):
        m = numpyro.sample("m", dist.Normal(0, settings["scale"]))
        numpyro.sample("y", dist.Normal(m, 1e6), obs=y)

    spread = []
    for scale in (1.0, 100.0):
        settings["scale"] = scale
        spread.append(draw(model, {"y": DATA["y"]}, SMALL, progress=False)[0].positions.std())
    assert spread[1] > 20 * spread[0]


def test_first_window_of_warmup_spends_no_long_trajectories(monkeypatch):
    """Its metric is a guess, so on a stretched posterior they would run to the depth limit."""
    stretched = pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2) - 0.5e6 * jnp.sum(jnp.diff(x) ** 2), 60)
    longest = {}
    advance = chains.Chains.advance

    def watched(self, count, metrics, drawn, *, phase, **kwargs):
        before = drawn.shortest
        advance(self, count, metrics, drawn, phase=phase, **kwargs)
        longest[phase] = int(drawn.rows(before).info.steps.max())

    monkeypatch.setattr(chains.Chains, "advance", watched)
    method = pi.NUTS(chains=2, draws=10, warmup=200)
    pi.infer(stretched, method=method, progress=False)
    assert longest[WARMUP] < 2**6
    assert max(longest.values()) > 2**6


def test_float32_and_float64():
    draws = positions(pi.NUTS(chains=2, draws=50, warmup=50, float64=False))
    assert draws.dtype == np.float32
    assert positions(pi.NUTS(chains=2, draws=50, warmup=50)).dtype == np.float64


def test_warmup_ends_early_only_where_its_length_is_not_set():
    """Of a normal posterior the metric is known after few draws; one that is set is kept to."""
    normal = pi.LogDensity(lambda z: -0.5 * (z**2 / jnp.arange(1.0, 6.0) ** 2).sum(), 5)
    taken = [
        pi.infer(normal, None, pi.NUTS(draws=50, warmup=warmup), seed=3, progress=False).tree.attrs["warmup_draws"]
        for warmup in (None, 400, 60)
    ]
    assert 100 <= taken[0] < 400
    assert taken[1:] == [400, 60]


@pytest.mark.parametrize("warmup", [0, 1, 7])
def test_short_warmups(warmup):
    assert positions(pi.NUTS(chains=1, draws=5, warmup=warmup)).shape == (1, 5, 10)


def test_one_parameter():
    posterior = pi.infer(pi.LogDensity(lambda x: -0.5 * jnp.sum(x**2), 1), method=SMALL, progress=False)
    assert posterior.tree["posterior"]["x"].shape == (2, 150, 1)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"chains": 0}, "chains is 0; wanted a whole number, 1 or more"),
        ({"draws": -5}, "draws is -5; wanted a whole number, 1 or more"),
        ({"draws": 10.5}, "draws is 10.5"),
        ({"chains": True}, "chains is True"),
        ({"warmup": -1}, "warmup is -1; wanted a whole number, 0 or more"),
        ({"target_accept": 1.0}, r"target_accept is 1.0; wanted a number in \(0, 1\)"),
        ({"target_accept": 0}, "target_accept is 0"),
        ({"target_accept": "high"}, "target_accept is 'high'"),
        ({"max_tree_depth": 0}, "max_tree_depth is 0; wanted a whole number from 1 to 20"),
        ({"low_rank": -1}, "low_rank is -1"),
    ],
)
def test_settings_are_checked_at_construction(settings, text):
    with pytest.raises(pi.MethodError, match=text):
        pi.NUTS(**settings)


@pytest.mark.parametrize("seed", [-1, 1.5, None, "a", True, np.array([1, 2])])
def test_seeds_that_are_none(seed):
    with pytest.raises(pi.MethodError, match="wanted a whole number"):
        positions(seed=seed)


def test_methods_that_are_none():
    with pytest.raises(pi.MethodError, match=r"wanted one of pi.NUTS\(\)"):
        pi.infer(eight_schools, DATA, "nuts")
    with pytest.raises(pi.MethodError, match=r"did you mean NUTS\(\)\?"):
        pi.infer(eight_schools, DATA, pi.NUTS)


def discrete(y):
    k = numpyro.sample("k", dist.Poisson(3.0))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def outside_support(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.HalfNormal(s), obs=y)


def log_of_negative(y):
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    numpyro.sample("y", dist.Normal(jnp.log(-s), 1.0), obs=y)


def infinite_gradient(y):
    s = numpyro.sample("s", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.where(s > -1e9, 0.0, jnp.sqrt(s - s)) + jnp.sqrt(s * 0.0), 1.0), obs=y)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (
            discrete,
            pi.MethodError,
            r"discrete sites summed out.*k \(Poisson\) are without end.*Fits: Metropolis, Gibbs\.$",
        ),
        (outside_support, pi.ModelError, r"not finite at site y \(-inf\), at each of 100 initial points"),
        (log_of_negative, pi.ModelError, r"not finite at site y \(nan\)"),
        (infinite_gradient, pi.ModelError, "finite, but its gradient is not, for s"),
    ],
)
def test_targets_that_cannot_be_started(model, error, text):
    with pytest.raises(error, match=text):
        pi.infer(model, {"y": -np.ones(3)}, SMALL, progress=False)


def test_ctrl_c_while_sampling_returns_what_there_is():
    script = f"""
    import sys
    sys.path.insert(0, {str(Path(__file__).parents[2])!r})
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest in the background of a shell ignores Ctrl-C
    import numpy as np, probinfer as pi
    from tests.inference.models import EIGHT_SCHOOLS, eight_schools
    from probinfer.inference.mcmc.chains import Chains

    advance = Chains.advance

    def announced(self, *args, **kwargs):
        if kwargs["phase"] == 0:
            print("sampling", flush=True)
        return advance(self, *args, **kwargs)

    Chains.advance = announced
    posterior = pi.infer(eight_schools, EIGHT_SCHOOLS, pi.NUTS(chains=2, draws=50_000_000, warmup=50))
    print(posterior.report.outcome, posterior.tree["posterior"].sizes["draw"], posterior.report)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "sampling\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    finally:
        process.kill()  # it would draw for hours
        process.communicate()
    assert process.returncode == 0, err
    assert "INTERRUPTED" in out
    assert "interrupted" in out.lower()


def test_ctrl_c_during_warmup_says_that_there_is_nothing_yet(monkeypatch):
    advance = chains.Chains.advance

    def interrupted(self, *args, **kwargs):
        self.interrupted = True
        return advance(self, *args, **kwargs)

    monkeypatch.setattr(chains.Chains, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt, match="during warm-up: there are no draws yet"):
        positions()


def test_an_error_in_a_chain_is_not_swallowed(monkeypatch):
    def broken(self, *args):
        raise RuntimeError("no luck")

    monkeypatch.setattr(chains.Chains, "_run", broken)
    with pytest.raises(RuntimeError, match="no luck"):
        positions(pi.NUTS(chains=2, draws=10, warmup=10, parallel=pi.Parallel.THREADS))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("probinfer")]


@pytest.mark.parametrize(
    ("method", "settings", "text"),
    [
        (pi.HMC, {"chains": 0}, "HMC: chains is 0; wanted a whole number, 1 or more"),
        (pi.HMC, {"path_length": 0}, "HMC: path_length is 0; wanted a number above 0, such as 1.57"),
        (pi.HMC, {"jitter": 1.0}, r"HMC: jitter is 1.0; wanted a number in \[0, 1\)"),
        (pi.HMC, {"max_steps": 0}, "HMC: max_steps is 0; wanted a whole number from 1"),
        (pi.HMC, {"target_accept": 0}, r"HMC: target_accept is 0; wanted a number in \(0, 1\)"),
        (pi.Metropolis, {"draws": 0}, "Metropolis: draws is 0; wanted a whole number, 1 or more"),
        (pi.Metropolis, {"thin": 0}, "Metropolis: thin is 0; wanted a whole number, 1 or more"),
        (pi.Metropolis, {"target_accept": "0.2"}, "Metropolis: target_accept is '0.2'; wanted a number"),
    ],
)
def test_wrong_settings_of_other_chains_are_refused(method, settings, text):
    with pytest.raises(pi.MethodError, match=text):
        method(**settings)


@pytest.mark.parametrize("method", [pytest.param(pi.HMC, marks=pytest.mark.long), pi.Metropolis])
def test_other_chains_keep_their_seed_their_rule_and_their_checkpoint(method, tmp_path):
    small = method(chains=2, draws=150, warmup=100)
    np.testing.assert_array_equal(positions(small), positions(small))
    assert (positions(small) != positions(small, seed=1)).all()
    path = tmp_path / "run"
    first, again = (pi.infer(eight_schools, DATA, small, checkpoint=path, progress=False) for _ in range(2))
    np.testing.assert_array_equal(first.latents["mu"], again.latents["mu"])
    stopped = pi.infer(eight_schools, DATA, small, until=pi.Until(ess=200), progress=False)
    assert json.loads(stopped.tree.attrs["until"])["met"]


def rounded(x):
    """A density that JAX cannot differentiate: the length of its loop depends on x."""
    rounds = jnp.int32(3 + 0 * x[0])
    return -0.5 * jax.lax.while_loop(lambda c: c[0] < rounds, lambda c: (c[0] + 1, c[1] + x @ x / 3), (0, 0.0))[1]


def test_a_density_without_a_gradient_is_for_metropolis():
    with pytest.raises(pi.ModelError, match=r"has a value but no gradient.*pi.Metropolis\(\)"):
        pi.infer(pi.LogDensity(rounded, dim=3), None, pi.NUTS(), progress=False)
    posterior = pi.infer(pi.LogDensity(rounded, dim=3), progress=False)
    assert posterior.report.verdict is pi.Verdict.GOOD
    assert "Metropolis, 4 chains" in str(posterior.report)
    assert "method chosen: the log density has no gradient" in str(posterior.report)
    assert abs(posterior.latents["x"].std() - 1) < 0.1


def test_an_argument_that_a_method_does_not_heed_is_refused():
    class Still(pi.NUTS):
        controls = frozenset()

    with pytest.raises(pi.MethodError, match="Still does not heed until="):
        pi.infer(eight_schools, DATA, Still(), until=pi.Until(ess=400))


def curved(y=None):
    """Few groups whose rows tell them, in units of their scale: at the acceptance 0.8 draws diverge."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    unit = numpyro.sample("unit", dist.Normal(0.0, 1.0).expand([3]))
    numpyro.sample("y", dist.Normal(scale * unit, 0.05), obs=y)


def straight(y=None):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([3]))
    numpyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def run_of(model, method):
    posterior = pi.infer(model, {"y": np.array([1.1, -0.7, 0.4])}, method, seed=0, progress=False)
    settings = json.loads(posterior.tree.attrs["settings"])
    diverged = int(posterior.tree["sample_stats"]["diverging"].sum())
    return settings["target_accept"], diverged, int(posterior.tree.attrs["warmup_draws"])


def test_the_acceptance_is_raised_where_draws_of_the_warmup_diverge():
    aimed, diverged, _ = run_of(curved, pi.NUTS())
    kept, more, _ = run_of(curved, pi.NUTS(target_accept=0.8))
    assert (aimed, kept) == (0.95, 0.8)
    assert diverged < more / 2
    assert more > 20
    assert run_of(straight, pi.NUTS())[0] == 0.8


def test_divergences_that_the_last_window_alone_shows_make_one_more(monkeypatch):
    monkeypatch.setattr(warmup, "_SETTLED_FROM", 0.9)
    monkeypatch.setattr(warmup, "_DIVERGENCES", 1)
    monkeypatch.setattr(warmup, "_DIVERGENT", 0.0)
    aimed, _, drawn = run_of(curved, pi.NUTS(warmup=400))
    assert (aimed, drawn) == (0.95, 460)


def test_an_acceptance_that_is_none_in_a_gibbs_plan():
    assert pi.NUTS().accept == 0.8
    posterior = pi.infer(straight, {"y": np.zeros(3)}, pi.Gibbs(plan={"mu": pi.NUTS()}, draws=50), progress=False)
    assert posterior.tree["posterior"]["mu"].shape == (4, 50, 3)


def two_modes(lower):
    """Modes at -1.5 and 1.5 that no trajectory leaves; the left one has so much less log density."""

    def log_density(x):
        left, right = (-0.5 * ((x[0] - at) / 0.05) ** 2 for at in (-1.5, 1.5))
        return jnp.logaddexp(left - lower, right) - 0.5 * x[1] ** 2

    return pi.LogDensity(log_density, 2)


def test_chains_in_a_mode_of_no_mass_begin_again(monkeypatch):
    """e^-80 of the density of the other: which mode a chain began in says nothing of the posterior."""

    def chains_right(seed):
        posterior = pi.infer(two_modes(80.0), {}, pi.NUTS(), seed=seed, progress=False)
        right = (posterior.tree["posterior"]["x"].values[..., 0] > 1).all(axis=1)
        assert (posterior.report.verdict is pi.Verdict.GOOD) == right.all()
        return int(right.sum()), int(posterior.tree.attrs.get("restarted", 0))

    kept = [chains_right(seed) for seed in range(4)]
    assert sum(restarted for _, restarted in kept) > 0
    monkeypatch.setattr(run, "_another", lambda *_: None)
    left = [chains_right(seed) for seed in range(4)]
    assert sum(right for right, _ in kept) > sum(right for right, _ in left)


def test_chains_in_modes_that_may_have_mass_stay_there():
    posterior = pi.infer(two_modes(1.0), {}, pi.NUTS(), seed=1, progress=False)
    assert "restarted" not in posterior.tree.attrs
    assert posterior.report.verdict is pi.Verdict.BAD
