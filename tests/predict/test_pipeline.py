"""A predictor with preprocessing: raw rows in, the outcome's own units out, in this process and in another."""

import json
import subprocess
import sys

import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from scipy import stats

import probinfer as pi
from probinfer.deploy.score import score
from probinfer.errors import ArtifactError, ModelError, PredictionError
from probinfer.predict import artifact
from tests.predict.fits import Fit, fitted

DRAWS, ROWS = 200, 80
rng = np.random.default_rng(11)
RAW = pd.DataFrame(
    {
        "size": rng.lognormal(4, 0.5, ROWS),
        "town": rng.choice(["A", "B", "C"], ROWS),
        "county": rng.choice(["X", "Y"], ROWS),
        "day": pd.date_range("2024-01-01", periods=ROWS, freq="D"),
    }
)
RAW["income"] = np.where(np.arange(ROWS) % 6 == 0, np.nan, rng.normal(50, 9, ROWS))
RAW["price"] = np.exp(2 + 0.5 * np.log(RAW["size"]) + 0.3 * rng.normal(size=ROWS))
RAW["verdict"] = np.where(RAW["size"] + 20 * rng.normal(size=ROWS) > 60, "sold", "kept")
NEW = RAW.iloc[[3, 17, 40, 60]].reset_index(drop=True)


def house(X, county, J, y=None):
    level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(level[county] + X @ beta, sigma), obs=y)


X = [
    pi.Column("size", pi.Log(), pi.Standardise()),
    pi.Column("town", pi.OneHot(drop_first=True)),
    pi.Column("income", pi.Impute(indicator=True), pi.Standardise()),
    pi.Column("day", pi.DateParts([pi.DatePart.DAY_OF_WEEK], cyclic=True)),
]
COUNTY = pi.Column("county", pi.Ordinal(unseen=pi.Unseen.RESERVE))
LATENTS = {
    "level": rng.normal(size=(DRAWS, 3)),
    "beta": 0.3 * rng.normal(size=(DRAWS, 7)),
    "sigma": np.exp(0.2 * rng.normal(size=DRAWS)),
}


def pipeline(*steps, model=house, outcome="price"):
    inputs = {"X": X, "county": COUNTY}
    return pi.Pipeline(model, inputs=inputs, sizes={"J": "county"}, outcome={"y": pi.Column(outcome, *steps)})


def predictor_of(made, latents=LATENTS):
    return pi.Predictor(Fit(made, RAW, latents))


@pytest.fixture(scope="module")
def logged():
    return predictor_of(pipeline(pi.Log()))


@pytest.fixture(scope="module")
def plain():
    return predictor_of(pipeline())


@pytest.fixture(scope="module")
def by_hand():
    """The same predictor with everything done by hand: a log-normal law, and the design matrix as pandas makes it."""

    def model(X, county, J, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.LogNormal(level[county] + X @ beta, sigma), obs=y)

    data = {"X": matrix(RAW), "county": codes(RAW), "J": 3, "y": RAW.price.to_numpy()}
    return fitted(model, data, LATENTS)


def matrix(rows):
    size, income = np.log(RAW["size"]), RAW.income.fillna(RAW.income.median())
    week = 2 * np.pi * rows.day.dt.day_of_week / 7
    columns = [
        (np.log(rows["size"]) - size.mean()) / size.std(ddof=0),
        rows.town == "B",
        rows.town == "C",
        (rows.income.fillna(RAW.income.median()) - income.mean()) / income.std(ddof=0),
        rows.income.isna(),
        np.sin(week),
        np.cos(week),
    ]
    return np.stack([np.asarray(column, float) for column in columns], axis=1)


def codes(rows):
    return rows.county.map({"X": 0, "Y": 1}).fillna(2).to_numpy(int)


# the numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pi.Interval.ETI, pytest.param(pi.Interval.HDI, marks=pytest.mark.long)])
def test_raw_rows_give_what_is_computed_by_hand(logged, by_hand, kind):
    ours = logged.predict(NEW, quantiles=(0.05, 0.5, 0.99), interval=kind)
    hand = by_hand.predict({"X": matrix(NEW), "county": codes(NEW)}, quantiles=(0.05, 0.5, 0.99), interval=kind)
    for name in ("mean", "sd", "lower", "upper", "epistemic_sd", "aleatoric_sd", "mcse", "quantiles"):
        assert np.allclose(getattr(ours, name), getattr(hand, name), rtol=1e-6 if kind is pi.Interval.HDI else 1e-9), (
            name
        )


def test_scores_and_draws_are_in_the_own_units(logged, by_hand):
    rows = {"X": matrix(NEW), "county": codes(NEW)}
    ours, hand = logged.log_score(NEW, NEW.price), by_hand.log_score(rows, NEW.price)
    assert np.allclose(ours, hand, rtol=1e-9)
    without = predictor_of(pipeline(pi.Log())).program.family.of  # the twin that forgets the Jacobian
    assert not np.allclose(ours - hand + np.log(NEW.price), 0.0)
    assert without.name == "Normal"
    assert np.allclose(logged.log_score(NEW, [-1.0, 0.0, 1.0, 2.0])[:2], -np.inf)
    assert np.allclose(logged.sample(NEW, 5, seed=1), np.exp(np.log(logged.sample(NEW, 5, seed=1))))
    assert (logged.sample(NEW, 50) > 0).all()


def test_a_standardised_outcome_changes_units_only(plain):
    scaled = predictor_of(pipeline(pi.Standardise()))
    mean, sd = RAW.price.mean(), RAW.price.std(ddof=0)
    one, other = plain.predict(NEW), scaled.predict(NEW)
    assert np.allclose(other.mean, mean + sd * one.mean)
    for name in ("sd", "epistemic_sd", "aleatoric_sd", "mcse"):
        assert np.allclose(getattr(other, name), sd * getattr(one, name)), name
    assert np.allclose(other.upper, mean + sd * one.upper)
    y = mean + sd * np.array([0.1, -0.4, 0.0, 1.0])
    assert np.allclose(scaled.log_score(NEW, y), plain.log_score(NEW, [0.1, -0.4, 0.0, 1.0]) - np.log(sd))


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((pi.BoxCox(0.2), pi.Standardise()), id="box-cox", marks=pytest.mark.long),
        pytest.param((pi.YeoJohnson(0.3), pi.Standardise()), id="yeo-johnson", marks=pytest.mark.long),
    ],
)
def test_quantiles_are_mapped_back_and_moments_are_not(steps, plain):
    predictor = predictor_of(pipeline(*steps))
    change = predictor.program.prepared.outcome.change
    ours, scaled = predictor.predict(NEW, quantiles=(0.1, 0.5)), plain.predict(NEW, quantiles=(0.1, 0.5))
    assert np.allclose(ours.quantiles, change.back(scaled.quantiles), rtol=1e-7)
    assert np.allclose(ours.upper, change.back(scaled.upper), rtol=1e-7)
    draws = predictor.sample(NEW, 20_000, seed=2)
    assert np.all(np.abs(draws.mean(axis=0) - ours.mean) < 5 * ours.sd / np.sqrt(DRAWS))  # draws repeat their posterior
    assert np.all(np.abs(change.back(scaled.mean) - ours.mean) > 0.01 * ours.sd)  # the naive way back


@pytest.mark.long
def test_a_law_without_a_closed_form_is_mapped_back():
    def model(X, county, J, y=None):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([J]).to_event(1))
        both = dist.Normal(jnp_stack(level[county]), 0.5)
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(probs=np.array([0.3, 0.7])), both), obs=y)

    def jnp_stack(a):
        import jax.numpy as jnp

        return jnp.stack([a - 1, a + 1], axis=-1)

    plain, logged = (predictor_of(pipeline(*steps, model=model)) for steps in ((), (pi.Log(),)))
    draws = logged.sample(NEW, 4000, seed=3)
    p = logged.predict(NEW, level=0.5)
    assert stats.binomtest(int((draws < p.upper).sum()), draws.size, 0.75).pvalue > 1e-6
    assert np.allclose(logged.sample(NEW, 9, seed=4), np.exp(plain.sample(NEW, 9, seed=4)))
    y = np.array([0.5, 1.0, 2.0, 9.0])
    assert np.allclose(logged.log_score(NEW, y), plain.log_score(NEW, np.log(y)) - np.log(y))


# rows ----------------------------------------------------------------------------------------------------------------


def test_rows_in_another_form_have_the_same_answer(logged):
    expected = logged.predict(NEW).mean
    for rows in (
        NEW[list(reversed(NEW.columns))],
        NEW.drop(columns=["price", "verdict"]),
        NEW.assign(further=1, town=NEW.town.astype("category"), size=NEW["size"].astype(object)),
        {name: list(NEW[name]) for name in NEW},
    ):
        if isinstance(rows, dict):
            rows.pop("verdict")
        assert np.array_equal(logged.predict(rows).mean, expected)
    assert np.array_equal(logged.predict(NEW.iloc[2:3]).mean, expected[2:3])


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        (NEW.drop(columns="size"), "The rows lack size; they have town"),
        (
            NEW.assign(town="D"),
            "town is 'D' in row 0 and 3 more (the first row is row 0): a label that",
        ),
        (NEW.assign(size=-1.0), "a logarithm wants numbers above 0"),
        (NEW.assign(size=np.nan), "size is missing in row 0 and 3 more"),
        (NEW.assign(size="large"), "wanted a number"),
        ({"sise": [1.0]}, "The rows lack size, town"),
    ],
)
def test_rows_that_do_not_fit_are_refused(logged, rows, text):
    with pytest.raises(PredictionError) as error:
        logged.predict(rows)
    assert text in str(error.value)


def test_a_group_never_seen_is_the_reserved_level(logged, by_hand):
    new = NEW.assign(county="Z")
    hand = by_hand.predict({"X": matrix(new), "county": np.full(4, 2)})
    assert np.allclose(logged.predict(new).mean, hand.mean)


def test_missing_inputs_are_filled_as_in_training(logged, by_hand):
    new = NEW.assign(income=None)
    hand = by_hand.predict({"X": matrix(new.assign(income=np.nan)), "county": codes(new)})
    assert np.allclose(logged.predict(new).mean, hand.mean)


# classes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled():
    def model(X, county, J, y=None):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Bernoulli(logits=X @ beta), obs=y)

    return predictor_of(pipeline(pi.Ordinal(), model=model, outcome="verdict"), {"beta": LATENTS["beta"]})


def test_classes_have_their_labels(labelled):
    p = labelled.predict(NEW)
    assert p.classes.tolist() == ["kept", "sold"]
    assert p.most_probable.tolist() == [["kept", "sold"][i] for i in p.probabilities.argmax(axis=1)]
    chosen = p.probabilities[np.arange(4), (NEW.verdict == "sold").to_numpy(int)]
    assert np.allclose(np.exp(labelled.log_score(NEW, NEW.verdict)), chosen)
    scores = pi.metrics(labelled, RAW, RAW.verdict)
    assert scores["accuracy"].value == np.mean(labelled.predict(RAW).most_probable == RAW.verdict)
    kept = RAW.iloc[:40].assign(size=lambda f: 1.01 * f["size"])
    assert labelled.calibrate(kept, kept.verdict).predict(NEW, level=0.8).sets.shape == (4, 2)
    with pytest.raises(PredictionError, match="verdict is 'lost' in row 0"):
        labelled.log_score(NEW, ["lost"] * 4)


def test_classes_and_law_have_to_agree():
    with pytest.raises(ModelError, match="coded as 2 classes, and its law in the model has none"):
        predictor_of(pipeline(pi.Ordinal(), outcome="verdict"))


# what the model does itself ------------------------------------------------------------------------------------------


def test_an_outcome_that_the_model_transforms_is_refused():
    import jax.numpy as jnp

    def model(X, county, J, y=None):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=None if y is None else jnp.abs(y) + 1)

    with pytest.raises(ModelError, match="observes something else than the argument 'y'"):
        predictor_of(pipeline(pi.Log(), model=model), {"beta": LATENTS["beta"]})


def test_a_transform_and_a_law_that_do_not_go_together_are_refused():
    def model(X, county, J, y=None):
        beta = numpyro.sample("beta", dist.Normal(0, 1).expand([X.shape[1]]).to_event(1))
        with numpyro.plate("rows", X.shape[0]):
            numpyro.sample("y", dist.Poisson(numpyro.deterministic("rate", 1.0 + (X @ beta) ** 2)), obs=y)

    with pytest.raises(ModelError, match="one number a row of a continuous law"):
        predictor_of(pipeline(pi.Log(), model=model), {"beta": LATENTS["beta"]})


# calibration ---------------------------------------------------------------------------------------------------------


def simulate(count, seed):
    """Prices that are twice as noisy as the model says."""
    draw = np.random.default_rng(seed)
    size = draw.lognormal(4, 0.5, count)
    return {"size": size, "price": np.exp(2 + 0.5 * np.log(size) + 0.6 * draw.standard_t(5, count))}


@pytest.mark.long
def test_calibrated_intervals_cover_in_the_own_units():
    """Binomial band at a false alarm rate of 1e-6, around the coverage that n calibration rows promise on average."""

    def model(x, y=None):
        a = numpyro.sample("a", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(a + 0.25 * x, 0.3), obs=y)

    made = pi.Pipeline(
        model,
        inputs={"x": pi.Column("size", pi.Log(), pi.Standardise())},
        outcome={"y": pi.Column("price", pi.BoxCox(0.1))},
    )
    center = np.log(simulate(4000, 1)["price"])
    latents = {"a": ((np.exp(0.1 * center) - 1) / 0.1).mean() + 0.01 * rng.normal(size=50)}
    predictor = pi.Predictor(Fit(made, simulate(200, 0), latents))
    kept, new = simulate(999, 2), simulate(4000, 3)
    calibrated = predictor.calibrate({"size": kept["size"]}, kept["price"])
    for one, fine in ((calibrated, True), (predictor, False)):
        p = one.predict({"size": new["size"]}, level=0.8)
        covered = int(np.sum((p.lower <= new["price"]) & (new["price"] <= p.upper)))
        # of one calibration set the coverage is Beta(800, 200) distributed, and the count so beta-binomial
        law = stats.betabinom(4000, 800, 200)
        assert (1e-6 / 2 < law.cdf(covered) < 1 - 1e-6 / 2) == fine
    with pytest.raises(PredictionError, match="where the model only gives"):
        predictor.calibrate({"size": kept["size"]}, -kept["price"])
    training = simulate(200, 0)
    with pytest.raises(PredictionError, match="Rows of the training data came to calibrate with"):
        predictor.calibrate({"size": training["size"]}, training["price"])


# the artifact --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(logged, tmp_path_factory):
    path = tmp_path_factory.mktemp("pipeline") / "predictor"
    logged.save(path)
    return path


def test_a_loaded_predictor_takes_raw_rows(logged, saved):
    loaded, ours = pi.load_predictor(saved), logged.predict(NEW, quantiles=(0.3,))
    theirs = loaded.predict(NEW, quantiles=(0.3,))
    for name in ("mean", "sd", "lower", "upper", "quantiles"):
        assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert np.array_equal(loaded.log_score(NEW, NEW.price), logged.log_score(NEW, NEW.price))
    assert [(i.name, i.dtype) for i in loaded.inputs] == [
        ("size", "float64"), ("town", "text"), ("income", "float64"), ("day", "date"), ("county", "text"),
    ]  # fmt: skip
    assert repr(loaded) == repr(logged)


def test_earlier_releases_refuse_it(saved):
    assert json.loads((saved / "manifest.json").read_text())["format_version"] == 4


@pytest.mark.long
def test_a_fresh_process_answers_raw_rows(logged, saved, tmp_path):
    NEW.to_parquet(tmp_path / "new.parquet")
    code = (
        "import json, pyarrow.parquet as pq\n"
        "from probinfer.predict.predictor import load_predictor\n"
        f"p = load_predictor({str(saved)!r}).predict(pq.read_table({str(tmp_path / 'new.parquet')!r}))\n"
        "print(json.dumps([p.mean.tolist(), p.upper.tolist()]))\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    p = logged.predict(NEW)
    assert json.loads(result.stdout) == [p.mean.tolist(), p.upper.tolist()]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_score_reads_raw_tables(logged, saved, tmp_path, suffix):
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    rows = NEW.assign(county=["X", "Q", "Y", "NA"])
    rows.to_csv(source, index=False) if suffix == ".csv" else rows.to_parquet(source)
    if suffix == ".csv":  # "NA" is how a missing label is written
        with pytest.raises(PredictionError, match="county is missing in row 3"):
            score(saved, source, target)
        rows = rows.assign(county=["X", "Q", "Y", "R"])
        rows.to_csv(source, index=False)
    score(saved, source, target, keep=["town"], chunk_rows=3)
    found = pd.read_csv(target) if suffix == ".csv" else pd.read_parquet(target)
    assert np.allclose(found["mean"], logged.predict(rows).mean, rtol=1e-12)
    assert found.town.tolist() == NEW.town.tolist()


def test_inspect_shows_columns_and_steps(saved):
    card = artifact.card(saved)
    assert "to model  log(price), of the column price" in card
    assert "size: numbers, for X: log(x); (x - " in card
    assert "town: labels, for X (2 columns): one-hot of A, B, C, the first left out" in card
    assert "county: labels, for county: codes of X, Y, one more for labels that are new" in card
    assert "Beta" not in card


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: p["inputs"][0]["columns"][0]["steps"][0][0].update(step="os.system"),
        lambda p: p["inputs"][0]["columns"][0]["steps"].append([{"step": "affine", "shift": 0.0, "scale": -1.0}]),
        lambda p: p["inputs"][0].update(columns=[]),
        lambda p: p["inputs"][0]["columns"].pop(),
        lambda p: p["inputs"].pop(),
        lambda p: p["outcome"]["steps"].append([{"step": "log", "shift": 0.0}]),
        lambda p: p.update(outcome=7),
        lambda p: p.pop("known"),
    ],
    ids=["no step", "scale", "no columns", "other width", "input missing", "two curves", "no outcome", "key missing"],
)
def test_preprocessing_that_was_tampered_with_is_refused(saved, tmp_path, damage):
    import shutil

    folder = shutil.copytree(saved, tmp_path / "predictor")
    manifest = json.loads((folder / "manifest.json").read_text())
    damage(manifest["prepared"])
    (folder / "manifest.json").write_bytes(artifact.sealed(manifest))
    with pytest.raises(ArtifactError):
        pi.load_predictor(folder)


# inference -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inferred():
    """A posterior by `infer`, of the first 40 rows."""

    def model(x, y=None):
        slope = numpyro.sample("slope", dist.Normal(0, 1))
        with numpyro.plate("rows", x.shape[0]):
            numpyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)

    made = pi.Pipeline(
        model,
        inputs={"x": pi.Column("size", pi.Log(), pi.Standardise())},
        outcome={"y": pi.Column("price", pi.Log(), pi.Standardise())},
    )
    return pi.infer(made, RAW.iloc[:40], pi.Exact(), progress=False)


def test_infer_fits_and_keeps_raw_columns(inferred):
    first = RAW.iloc[:40]
    assert set(inferred.data) == {"size", "price"}
    predictor = pi.Predictor(inferred)
    assert np.allclose(predictor.predict(first).mean.mean(), first.price.mean(), rtol=0.1)


@pytest.mark.long
def test_an_update_is_on_the_first_scale(inferred):
    first, more = RAW.iloc[:40], RAW.iloc[40:].assign(size=lambda f: 3 * f["size"], price=lambda f: 3 * f.price)
    updated = inferred.update(more, progress=False)
    x, y = (np.log(np.r_[first[n], more[n]]) for n in ("size", "price"))
    x, y = ((v - v[:40].mean()) / v[:40].std() for v in (x, y))
    precision = 1 + x @ x / 0.25
    slopes = updated.latents["slope"]
    assert abs(slopes.mean() - x @ y / 0.25 / precision) < 6 / np.sqrt(precision * 200)
    x2, y2 = (np.log(np.r_[first[n], more[n]]) for n in ("size", "price"))
    x2, y2 = ((v - v.mean()) / v.std() for v in (x2, y2))  # the twin that standardises anew
    assert abs(slopes.mean() - x2 @ y2 / 0.25 / (1 + x2 @ x2 / 0.25)) > 6 / np.sqrt(precision * 200)
