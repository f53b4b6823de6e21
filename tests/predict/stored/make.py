"""Wrote the artifacts of this folder, one for each format version, with the numbers they answered when they were new.

    python -m tests.predict.stored.make FOLDER

A stored artifact is never written again: it stands for the files that users keep. When the format changes, add one of
the new version here, run this for it alone, and leave the others as they are.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import onnx
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

import probinfer as pi
from probinfer import Predictor
from tests.predict import models as m
from tests.predict.fits import Fit, fitted

ROWS = {"x": np.array([-1.5, 0.0, 0.25, 2.0])}
LEVELS = (0.05, 0.5, 0.975)


def _thin(latents: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[::4].astype(np.float32).astype(float) for name, values in latents.items()}


def normal() -> Predictor:
    """Format 1: a law with a closed form."""
    return fitted(m.line, {"x": m.x, "y": m.y}, _thin(m.LINE), chains=2)


def geometric() -> Predictor:
    """Format 1: a law without one, answered from keyed draws."""
    return fitted(m.geometric, {"x": m.x, "y": m.counts}, _thin({"rate": np.exp(m.draws())}))


def calibrated() -> Predictor:
    """Format 2: counts, calibrated."""
    predictor = fitted(m.poisson, {"x": m.x, "y": m.counts}, _thin({"rate": np.exp(m.draws())}))
    rng = np.random.default_rng(5)
    return predictor.calibrate({"x": rng.normal(size=60)}, rng.poisson(3.0, 60))


def compressed() -> Predictor:
    """Format 3: weighted draws."""
    predictor = fitted(m.line, {"x": m.x, "y": m.y}, m.LINE, chains=4)
    return predictor.compress({"x": np.linspace(-2.0, 2.0, 61)}, 0.03)


def prepared() -> Predictor:
    """Format 4: raw rows in, the outcome's own units out."""

    def line(size: Any, price: Any = None) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        numpyro.sample("price", dist.Normal(slope * size, 1.0), obs=price)

    pipeline = pi.Pipeline(
        line,
        inputs={"size": pi.Column("x", pi.Standardise())},
        outcome={"price": pi.Column("price", pi.Standardise())},
    )
    rng = np.random.default_rng(6)
    frame = {"x": rng.normal(size=50), "price": rng.normal(3.0, 2.0, size=50)}
    return Predictor(pi.infer(pipeline, frame, pi.Exact(draws=120), progress=False))


def point() -> pi.PointPredictor:
    """Format 5: a point model with conformal intervals."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=60)
    return pi.PointPredictor(_linear([2.0]), inputs=["x"], outcome="y").calibrate(
        {"x": x}, 2.0 * x + rng.normal(size=60)
    )


def raw_point() -> pi.PointPredictor:
    """Format 9: a point model of a raw column, scaled and coded."""
    codes = OrdinalEncoder(categories=[["-1.5", "0", "2"]], handle_unknown="use_encoded_value", unknown_value=-1)
    rng = np.random.default_rng(9)
    frame = pd.DataFrame({"x": rng.normal(size=60), "level": rng.choice(["-1.5", "0", "2"], 60)})
    read = ColumnTransformer([("scaled", StandardScaler(), ["x"]), ("codes", codes, ["level"])]).fit(frame)
    predictor = pi.PointPredictor(_linear([2.0, 0.5]), inputs=read, outcome="y")
    return predictor.calibrate(frame, 2.0 * frame.x + rng.normal(size=60))


def plus() -> pi.PointPredictor:
    """Format 10: models that were each fitted without a fold of the rows, calibrated by CV+."""
    rng = np.random.default_rng(10)
    frame = pd.DataFrame({"x": rng.normal(size=40)})
    return pi.cross_calibrate(
        make_pipeline(StandardScaler(), Ridge()), frame, 2.0 * frame.x + rng.normal(size=40), cv=3
    )


def _linear(weights: list[float]) -> bytes:
    """A model that is the sum of its inputs by these weights."""
    node = onnx.helper.make_node("MatMul", ["rows", "weight"], ["y"])
    graph = onnx.helper.make_graph(
        [node],
        "line",
        [onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.DOUBLE, ["n", len(weights)])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, ["n", 1])],
        [onnx.helper.make_tensor("weight", onnx.TensorProto.DOUBLE, [len(weights), 1], weights)],
    )
    model = onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)])
    return model.SerializeToString()


def rounded() -> Predictor:
    """Format 6: draws in single precision."""
    return fitted(m.line, {"x": m.x, "y": m.y}, {k: v[::4] for k, v in m.LINE.items()}, chains=2).round({"x": m.x})


def several() -> pi.JointPredictor:
    """Format 7: two outcomes, one of them calibrated."""

    def model(x: Any, y: Any = None, ill: Any = None) -> None:
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)
        numpyro.sample("ill", dist.Bernoulli(logits=slope * x), obs=ill)

    data = {"x": m.x, "y": m.y, "ill": (m.y > 0).astype(int)}
    predictor = Predictor(Fit(pi.Model(model), data, _thin(m.LINE), chains=2), outcome=["y", "ill"])
    rng = np.random.default_rng(8)
    return predictor.calibrate({"x": rng.normal(size=60)}, {"y": rng.normal(size=60)})


def forecaster() -> pi.Forecaster:
    """Format 8: a linear Gaussian series, gone on with after the fit."""
    model = pi.StateSpace.linear_gaussian(
        [0.0],
        [[1.0]],
        [[0.9]],
        lambda t, params: params["q"] * jnp.eye(1),
        [[1.0]],
        [[0.5]],
        prior={"q": dist.HalfNormal(1.0)},
    )
    fit = Fit(model, m.y[:12], {"q": np.linspace(0.1, 2.0, 60)}, chains=2)
    return pi.Forecaster(fit).observe([0.5, np.nan])


def counted() -> pi.Forecaster:
    """Format 8: a series of counts by particles, none of whose numbers is of single precision. Written without XLA's
    optimisations, with which the logistic law of its states takes minutes to compile."""
    model = pi.StateSpace(
        initial=lambda params: dist.Logistic(0.0, 1.0),
        transition=lambda x, t, params: dist.Logistic(0.8 * x, params["s"]),
        observation=lambda x, t, params: dist.Poisson(jnp.exp(x)),
        prior={"s": dist.HalfNormal(1.0)},
    )
    fit = Fit(model, m.counts[:8], {"s": np.linspace(0.05, 0.4, 20)}, chains=2)
    return pi.Forecaster(fit, particles=20).observe([3])


def calibrated_forecaster() -> pi.Forecaster:
    """Format 10: a series of counts with calibrated intervals, both ends by scores of their own."""
    model = pi.StateSpace(
        initial=lambda params: dist.Normal(0.0, 1.0),
        transition=lambda x, t, params: dist.Normal(0.8 * x, params["s"]),
        observation=lambda x, t, params: dist.Poisson(jnp.exp(x)),
        prior={"s": dist.HalfNormal(1.0)},
    )
    fit = Fit(model, m.counts[:8], {"s": np.linspace(0.05, 0.4, 20)}, chains=2)
    y = np.random.default_rng(10).poisson(4.0, 60).astype(float)
    y[4] = np.nan
    return pi.Forecaster(fit, particles=20).calibrate(y, 3, level=0.8).observe([3])


STORED = {
    "v1-normal": normal,
    "v1-geometric": geometric,
    "v2-calibrated": calibrated,
    "v3-compressed": compressed,
    "v4-prepared": prepared,
    "v5-point": point,
    "v6-rounded": rounded,
    "v7-several": several,
    "v8-forecaster": forecaster,
    "v8-counts": counted,
    "v9-raw-point": raw_point,
    "v10-calibrated-forecaster": calibrated_forecaster,
    "v11-folds": plus,
}


def answers(predictor: Predictor | pi.JointPredictor | pi.PointPredictor | pi.Forecaster) -> dict[str, list]:
    """What is kept of the predictions for `ROWS`."""
    if isinstance(predictor, pi.Forecaster):
        columns = predictor.predict(3, level=0.8, quantiles=LEVELS).columns()
        after = predictor.observe([2, 1]).predict(1, level=0.8, quantiles=LEVELS).columns()
        columns |= {f"later {name}": values for name, values in after.items()}
        columns |= {"log_score": predictor.log_score([2, 1]), "draws": predictor.sample(2, 3, seed=1)}
        return {name: values.tolist() for name, values in columns.items()}
    rows = {**ROWS, "level": ["-1.5", "0.0", "?", "2"]} if len(predictor.inputs) == 2 else ROWS
    prediction = predictor.predict(rows, level=0.8, quantiles=LEVELS)
    columns = {name: values.tolist() for name, values in prediction.columns().items()}
    if isinstance(predictor, pi.PointPredictor):
        return columns
    if isinstance(predictor, pi.JointPredictor):
        drawn = predictor.sample(ROWS, 3, seed=1)
        return {**columns, **{f"draws of {name}": values.tolist() for name, values in drawn.items()}}
    scores = predictor.log_score(ROWS, np.array([1.0, 0.0, 2.0, 3.0]))
    return {**columns, "log_score": scores.tolist(), "draws": predictor.sample(ROWS, 3, seed=1).tolist()}


def main(folder: str) -> None:
    """Write what is not there yet."""
    for name, make in STORED.items():
        path = Path(folder) / name
        if not path.exists():
            predictor = make()
            predictor.save(path)
            path.with_suffix(".json").write_text(json.dumps(answers(predictor), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
