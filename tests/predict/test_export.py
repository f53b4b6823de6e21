"""The ONNX file answers what the predictor answers, in another runtime; what cannot be exported is named."""

import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest

import probinfer as pi
from probinfer.cli import main
from probinfer.predict import onnx_ops
from probinfer.predict.compress import _subset
from probinfer.predict.families import Support
from probinfer.predict.program import PARAMETERS, Input, Program
from probinfer.predict.stablehlo import flat_module
from tests.predict import models as m
from tests.predict.fits import fitted
from tests.predict.laws_known import KNOWN

USUAL = ("Normal", "Bernoulli", "Poisson")
ROWS = {"x": np.array([-1.0, 0.0, 0.3, 2.0])}


def predictor_of(name, draws=60):
    """A predictor of a family, without a model: x scales the last parameter where that is possible, of a truncated law
    the scale, since its last is a bound that has to stay above the other."""
    known = KNOWN[name]
    values = [np.asarray(v, float) for v in known.draw(np.random.default_rng(1), (draws,))]
    names = [f"p{i}" for i in range(len(values))]
    scaled = known.family.parameters.index("scale") if "high" in known.family.parameters else -1

    def one(draws, row):
        found = [draws[n] for n in names]
        if known.family.support is not Support.CLASSES:
            found[scaled] = found[scaled] * jnp.exp(0.1 * row["x"])
        return tuple(found)

    def call(draws, fixed, rows):
        return jax.vmap(lambda row: jax.vmap(lambda d: one(d, row))(draws))(rows)

    with jax.enable_x64(True):
        n, s = jax.export.symbolic_shape("n, s")
        specs = {k: jax.ShapeDtypeStruct((s, *v.shape[1:]), v.dtype) for k, v in zip(names, values, strict=True)}
        exported = jax.export.export(jax.jit(call))(specs, {}, {"x": jax.ShapeDtypeStruct((n,), np.float64)})
    support = known.family.support
    sizes = {Support.CLASSES: values[0].shape[-1], Support.BINARY: 2, Support.COUNT: 11}
    program = Program(
        outcome="y",
        family=known.family,
        inputs=(Input("x", "float64"),),
        draws=dict(zip(names, values, strict=True)),
        chains=2,
        fixed={},
        constants={},
        row_counts=(),
        unread=(),
        event=(),
        discrete=support.discrete,
        probabilities=sizes.get(support, 0),
        programs={PARAMETERS: exported},
    )
    return pi.Predictor.from_program(program, {"verdict": "GOOD"})


def run(path, rows):
    """The outputs of the file in ONNX Runtime, by name."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, rows), strict=True))


def assert_same(found, prediction):
    """Within 1e-5, relative to the numbers or to the sd."""
    for name, values in found.items():
        expected = np.asarray(getattr(prediction, name))
        assert values.shape == expected.shape, name
        np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-7, err_msg=name)


def check(name, path):
    predictor = predictor_of(name)
    predictor.export_onnx(path, level=0.8, quantiles=(0.01, 0.5))
    found = run(path, ROWS)
    wanted = {"mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse", "quantiles"}
    assert set(found) == wanted | ({"probabilities"} if predictor.program.probabilities else set())
    assert_same(found, predictor.predict(ROWS, 0.8, (0.01, 0.5)))


@pytest.mark.parametrize("name", USUAL)
def test_onnx_runtime_agrees(name, tmp_path):
    check(name, tmp_path / "y.onnx")


@pytest.mark.long
@pytest.mark.parametrize("name", [name for name in KNOWN if name not in (*USUAL, "Beta")])
def test_onnx_runtime_agrees_for_every_family(name, tmp_path):
    check(name, tmp_path / "y.onnx")


@pytest.mark.long
def test_a_family_that_is_not_exported_is_refused_by_its_operation(tmp_path):
    with pytest.raises(pi.ExportError, match="the operation 'bitcast_convert'"):
        predictor_of("Beta").export_onnx(tmp_path / "y.onnx")


def test_another_level_is_noticed(tmp_path):
    predictor = predictor_of("Bernoulli")
    predictor.export_onnx(tmp_path / "y.onnx", level=0.5)
    with pytest.raises(AssertionError):
        assert_same(run(tmp_path / "y.onnx", ROWS), predictor.predict({"x": ROWS["x"] + 0.01}, 0.5))


def test_a_model_with_groups_vectors_and_weights(tmp_path):
    """Indexing by group, matrix products, several numbers a row; from a compressed predictor that was saved."""
    import numpyro
    from numpyro import distributions as dist

    def model(X, group, J, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([J, 2]).to_event(2))
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([3]).to_event(1))
        mean = level[group] + (X @ beta)[:, None]
        numpyro.sample("y", dist.Normal(mean, 0.5).to_event(1), obs=y)

    data = {"X": m.X, "group": m.group, "J": m.GROUPS, "y": m.wide[:, :2]}
    predictor = fitted(model, data, {"level": m.draws(m.GROUPS, 2), "beta": m.draws(3)})
    weights = np.random.default_rng(2).dirichlet(np.ones(50))
    small = pi.Predictor.from_program(_subset(predictor.program, np.arange(0, 200, 4), weights, 0.1), {})
    small.save(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--onnx", str(tmp_path / "y.onnx"), "--level", "0.8"]) == 0
    rows = {"X": m.X[:6], "group": m.group[:6]}
    found = run(tmp_path / "y.onnx", rows)
    assert_same(found, small.predict(rows, 0.8))
    assert found["mean"].shape == (6, 2)
    unseen = run(tmp_path / "y.onnx", {"X": m.X[:2], "group": np.array([0, m.GROUPS])})
    assert np.isfinite(unseen["mean"][0]).all()
    assert np.isnan(unseen["mean"][1]).all()
    words = {p.key: p.value for p in onnx.load(tmp_path / "y.onnx").metadata_props}
    assert words["probinfer.level"] == "0.8"
    assert words["probinfer.known_levels"] == f'{{"group": [0, {m.GROUPS - 1}]}}'


# single operations ---------------------------------------------------------------------------------------------------


def turn(i, v):
    """One entry, at a place that is computed."""
    return jax.lax.dynamic_update_slice(v, v[(i + 1) % 4][None] * 1.1, (i % 4,))


CASES = {
    "log1p and expm1": lambda x: jnp.log1p(jnp.abs(x)) + jnp.log1p(1e-12 * x) + jnp.expm1(x) + jnp.expm1(1e-12 * x),
    "at the ends": lambda x: jnp.stack(
        [jnp.log1p(-jnp.ones(())), jnp.expm1(-800.0 + 0 * x[0]), jnp.log1p(jnp.inf * x[1])]
    ),
    "nan in a maximum": lambda x: jnp.maximum(jnp.where(x > 0, jnp.nan, x), 0.0) + jnp.minimum(0.0, jnp.sqrt(x)),
    "special functions": lambda x: jax.scipy.special.gammaln(jnp.abs(x) + 0.1) + jax.lax.erfc(x) + jax.nn.sigmoid(x),
    "indices": lambda x: x[jnp.array([2, 0, 9])] + jnp.outer(x, x)[jnp.array([1, 2, 3]), jnp.array([0, 0, 1])],
    "along an axis": lambda x: jnp.take_along_axis(jnp.outer(x, x), jnp.array([[1], [0], [2], [3]]), axis=1),
    "slices": lambda x: jnp.concatenate([x[::-1][1:3], jnp.pad(x, (1, 2))[::2], jnp.flip(x)]),
    "running sums": lambda x: jnp.cumsum(jnp.outer(x, x), axis=1) + jax.lax.cumsum(x, reverse=True),
    "products": lambda x: jnp.einsum("ij,jk->ki", jnp.outer(x, x), jnp.outer(x, x + 1)) @ x,
    "sums": lambda x: jnp.stack([jnp.prod(x), jnp.max(x), jnp.min(x), jnp.sum(x), jnp.any(x > 0) * 1.0]),
    "sums at once": lambda x: jnp.stack(
        jax.lax.reduce((x, x * x), (0.0, 1.0), lambda a, b: (a[0] + b[0], b[1] + a[1]), (0,))
    ),
    "whole numbers": lambda x: (jnp.arange(4) % 3) ** 2 * 1.0 + jnp.floor(x) + jnp.sign(x) + jnp.round(x) + x % 0.7,
    "a loop": lambda x: jax.lax.fori_loop(0, 5, turn, x),
    "a branch": lambda x: jax.lax.cond(x[0] > 0, lambda v: v * 2, lambda v: v - 1, x),
}


@pytest.mark.parametrize("name", CASES)
def test_operations_mean_the_same(name, tmp_path):
    function, x = CASES[name], np.array([0.3, -1.7, 2.5, -0.01])
    with jax.enable_x64(True):
        expected = np.asarray(jax.jit(function)(x))
        module = flat_module(function, jax.ShapeDtypeStruct((4,), np.float64))
    block = module.body.operations[0].regions[0].blocks[0]
    graph = onnx_ops.Graph()
    result = onnx_ops.translate(block, graph, {block.arguments[0]: "x"})[0]
    floats = np.dtype(float)
    built = graph.built("g", [onnx_ops.value_info("x", floats, [4])], [onnx_ops.value_info(result, floats, None)])
    model = onnx.helper.make_model(built, opset_imports=[onnx.helper.make_opsetid("", onnx_ops.OPSET)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-12, atol=1e-300)


# refusals ------------------------------------------------------------------------------------------------------------


def test_an_operation_without_translation_is_named():
    for function, text in (
        (lambda x: jnp.sort(x), "the operation 'sort'"),
        (lambda x: jax.lax.cummax(x), "reduces windows"),
        (lambda x: jnp.linalg.cholesky(jnp.eye(4) + jnp.outer(x, x))[0], "the operation '.*cholesky|custom_call"),
        (lambda x: jnp.argmax(x) * 1.0, "such as argmax"),
    ):
        with jax.enable_x64(True):
            module = flat_module(function, jax.ShapeDtypeStruct((4,), np.float64))
        block = module.body.operations[0].regions[0].blocks[0]
        with pytest.raises(pi.ExportError, match=text):
            onnx_ops.translate(block, onnx_ops.Graph(), {block.arguments[0]: "x"})


def test_predictors_that_cannot_be_exported(tmp_path):
    geometric = fitted(m.geometric, {"x": m.x, "y": m.counts}, {"rate": np.exp(m.draws())})
    with pytest.raises(pi.ExportError, match="has a law without a closed form"):
        geometric.export_onnx(tmp_path / "y.onnx")
    line = predictor_of("Bernoulli")
    calibrated = pi.Predictor.from_program(line.program, line.about, SimpleNamespace())
    with pytest.raises(pi.ExportError, match="calibrated, and the ONNX file would give the intervals without"):
        calibrated.export_onnx(tmp_path / "y.onnx")
    with pytest.raises(pi.PredictionError, match="level has 90"):
        line.export_onnx(tmp_path / "y.onnx", level=90)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_older_file(tmp_path, monkeypatch):
    (tmp_path / "y.onnx").write_text("older")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        predictor_of("Bernoulli").export_onnx(tmp_path / "y.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["y.onnx"]
    assert (tmp_path / "y.onnx").read_text() == "older"


def test_without_onnx_the_extra_is_named():
    code = """
import sys
sys.modules["onnx"] = None
from probinfer.predict import onnx_ops
from probinfer.errors import MissingExtra
try:
    onnx_ops.onnx()
except MissingExtra as error:
    assert "probinfer[onnx]" in str(error), error
else:
    raise SystemExit(1)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
