"""Cross-validation of models with preprocessing: all that is fitted to rows is fitted to those of the fold alone."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import probinfer as pi
from probinfer.inference.draw import key_words

ROWS = 60
rng = np.random.default_rng(8)
FRAME = pd.DataFrame({"x": rng.normal(5, 2, ROWS), "g": [f"g{k}" for k in np.arange(ROWS) // 20]})
FRAME["price"] = np.exp(0.3 * FRAME.x + rng.normal(0, 0.4, ROWS))
METHOD = pi.Laplace(draws=100)


def line(x, y=None):
    slope, sigma = numpyro.sample("slope", dist.Normal(0, 1)), numpyro.sample("sigma", dist.HalfNormal(1))
    numpyro.sample("y", dist.Normal(slope * x, sigma), obs=y)


PIPELINE = pi.Pipeline(
    line,
    inputs={"x": pi.Column("x", pi.Standardise())},
    outcome={"y": pi.Column("price", pi.Log(), pi.Standardise())},
)


@pytest.mark.long
@pytest.mark.parametrize("model", [PIPELINE, pi.formula("log(price) ~ scale(x)")], ids=["pipeline", "formula"])
def test_a_fold_is_what_its_rows_alone_give(model):
    columns = FRAME[["x", "price"]]
    found = pi.cross_validate(model, columns, METHOD, cv=2, progress=False)
    fold = found.folds[0]
    train, test = columns.iloc[fold.train], columns.iloc[fold.test]
    seed = np.array([*key_words(0), 0], np.uint32)
    alone = pi.Predictor(pi.infer(model, train, METHOD, seed=seed, progress=False), accept=pi.Verdict.BAD)
    expected = alone.log_score(test, test.price)
    assert np.allclose(found.log_score[fold.test], expected, rtol=1e-9)
    everything = found.refits.predictor  # the twin that has seen them
    assert not np.allclose(expected, everything.log_score(test, test.price), rtol=1e-3)


@pytest.mark.long
def test_a_group_left_out_is_answered_from_the_population():
    model = pi.formula("log(price) ~ x + (1 | g)")
    posterior = pi.infer(model, FRAME, pi.NUTS(chains=2, draws=200), progress=False)
    found = pi.cross_validate(posterior, cv=3, groups=FRAME.g.to_numpy(), progress=False)
    assert np.isfinite(found.log_score).all()


def test_labels_as_outcomes_are_refused_with_what_to_do():
    model = pi.formula("g ~ x", pi.Family.CATEGORICAL)
    posterior = pi.infer(model, FRAME, METHOD, progress=False)
    with pytest.raises(pi.ModelError, match="give the column as codes, 0 to 2"):
        pi.cross_validate(posterior, cv=2, progress=False)
