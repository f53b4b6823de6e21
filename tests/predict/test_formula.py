"""Predictors of formulas: raw rows in, answers as by hand, in this process and in another, and of new groups."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from scipy import special

import probinfer as pi
from probinfer.deploy.served import load
from probinfer.errors import PredictionError
from probinfer.predict import outcome
from tests.predict.fits import Fit

DRAWS, ROWS = 200, 90
rng = np.random.default_rng(17)
FRAME = pd.DataFrame(
    {
        "x": rng.normal(3, 1, ROWS),
        "z": rng.uniform(1, 9, ROWS),
        "town": rng.choice(["A", "B", "C"], ROWS),
        "county": rng.choice(list("pqrs"), ROWS),
        "class": rng.choice([1, 2], ROWS),
        "price": rng.lognormal(1, 0.5, ROWS),
        "deaths": rng.poisson(3, ROWS),
    }
)
FRAME["cases"] = FRAME.deaths + 2
TEXT = "log(price) ~ scale(x)*town + poly(z, 2) + (1 + x | county) + offset(z)"
LATENTS = {
    "Intercept_centred": rng.normal(size=DRAWS),
    "scale(x)": rng.normal(size=DRAWS),
    "town": rng.normal(size=(DRAWS, 2)),
    "poly(z, 2)": rng.normal(size=(DRAWS, 2)),
    "scale(x):town": rng.normal(size=(DRAWS, 2)),
    "county_sd": rng.gamma(1, 1, size=(DRAWS, 2)),
    "county_z": rng.normal(size=(DRAWS, 4, 2)),
    "county_corr": rng.uniform(-0.9, 0.9, DRAWS),
    "sigma": np.exp(0.2 * rng.normal(size=DRAWS)),
}
NEW = pd.DataFrame(
    {"county": ["q", "s", "p"], "x": [1, 5, 2], "town": ["C", "A", "B"], "z": [2.0, 9.5, 4.0], "junk": ["?", "!", "."]}
)


def predictor_of(text=TEXT, latents=LATENTS, frame=FRAME, family=pi.Family.GAUSSIAN, unseen=pi.Unseen.ERROR):
    model = pi.formula(text, family)
    return pi.Predictor(Fit(model, model.bind(frame).data, latents), unseen=unseen)


@pytest.fixture(scope="module")
def predictor():
    return predictor_of()


def polynomial(z):
    """Orthogonal to constants and to each other over the rows of training, from a QR decomposition."""
    powers = np.vander(FRAME.z - FRAME.z.mean(), 3, increasing=True)
    triangle = np.linalg.qr(powers)[1]
    triangle *= np.sign(np.diag(triangle))[:, None]
    return (np.vander(np.asarray(z) - FRAME.z.mean(), 3, increasing=True) @ np.linalg.inv(triangle))[:, 1:]


def design(rows):
    x = (rows.x - FRAME.x.mean()) / FRAME.x.std(ddof=0)
    towns = np.stack([rows.town == "B", rows.town == "C"], axis=1)
    return np.column_stack([x, towns, polynomial(rows.z), np.asarray(x)[:, None] * towns]).astype(float)


def linear_predictor(rows, latents=LATENTS):
    """(draws, rows), by hand."""
    names = ("town", "poly(z, 2)", "scale(x):town")
    beta = np.hstack([latents["scale(x)"][:, None], *(latents[name] for name in names)])
    eta = latents["Intercept_centred"][:, None] + beta @ (design(rows) - design(FRAME).mean(axis=0)).T
    z, r = latents["county_z"], latents["county_corr"][:, None]
    effect = np.stack([z[..., 0], r * z[..., 0] + np.sqrt(1 - r**2) * z[..., 1]], axis=-1)
    effect *= latents["county_sd"][:, None]
    level = rows.county.map(dict(zip("pqrs", range(4), strict=True))).to_numpy()
    return eta + effect[:, level, 0] + effect[:, level, 1] * rows.x.to_numpy() + rows.z.to_numpy()


def test_raw_rows_give_what_is_computed_by_hand(predictor):
    eta, sigma = linear_predictor(NEW), LATENTS["sigma"][:, None]
    p = predictor.predict(NEW)
    assert np.allclose(p.mean, np.exp(eta + sigma**2 / 2).mean(axis=0), rtol=1e-9)
    wrong = {**LATENTS, "town": LATENTS["town"][:, ::-1]}  # the twin whose levels are exchanged
    assert not np.allclose(p.mean, np.exp(linear_predictor(NEW, wrong) + sigma**2 / 2).mean(axis=0), rtol=1e-3)
    density = np.exp(-0.5 * ((np.log(2.5) - eta) / sigma) ** 2) / (np.sqrt(2 * np.pi) * sigma * 2.5)
    assert np.allclose(predictor.log_score(NEW, [2.5] * 3), np.log(density.mean(axis=0)), rtol=1e-9)


def test_the_outcome_may_be_left_out(monkeypatch):
    """The likeliest way of cutting the model to a row is the one that is taken; the next ones are for other models."""
    tried = []
    check = outcome._check
    monkeypatch.setattr(outcome, "_check", lambda plan, latents: tried.append(plan.left_out) or check(plan, latents))
    latents = {"Intercept_centred": LATENTS["Intercept_centred"], "x": LATENTS["scale(x)"], "sigma": LATENTS["sigma"]}
    predictor_of("price ~ x", latents)
    assert tried == [("price",)]


def test_columns_come_in_any_order_and_type(predictor):
    plain = predictor.predict(NEW).mean
    assert np.array_equal(predictor.predict(NEW[NEW.columns[::-1]]).mean, plain)
    assert np.array_equal(predictor.predict(NEW.astype(object)).mean, plain)
    assert np.array_equal(predictor.predict(NEW.assign(town=NEW.town.astype("category"))).mean, plain)
    rows = {name: NEW[name].tolist() for name in NEW.columns if name != "junk"}
    assert np.array_equal(predictor.predict(rows).mean, plain)
    alone = [predictor.predict(NEW.iloc[[row]]).mean[0] for row in range(3)]
    assert np.allclose(alone, plain, rtol=1e-12)
    assert [entry.name for entry in predictor.inputs] == ["x", "z", "town", "county"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"town": "D"}, "town is 'D' in row 0 .* training has not seen"),
        ({"county": "new"}, "county is 'new'"),
        ({"x": np.nan}, "x is missing in row 0"),
        ({"x": "many"}, "x is 'many'|x holds text"),
    ],
)
def test_rows_that_cannot_be_predicted_are_refused(predictor, change, said):
    with pytest.raises(PredictionError, match=said):
        predictor.predict(NEW.assign(**change))
    with pytest.raises(PredictionError, match="The rows lack z"):
        predictor.predict(NEW.drop(columns="z"))


IN_ANOTHER_PROCESS = """
import json, sys
import pandas as pd
import probinfer
rows = pd.DataFrame(json.loads(sys.argv[2]))
print(json.dumps(probinfer.load_predictor(sys.argv[1]).predict(rows).mean.tolist()))
assert "numpyro" not in sys.modules
"""


def test_a_saved_predictor_answers_the_same_in_another_process(predictor, tmp_path):
    predictor.save(tmp_path / "saved")
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, str(tmp_path / "saved"), json.dumps(NEW.to_dict("list"))]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert json.loads(result.stdout) == predictor.predict(NEW).mean.tolist()


def test_new_groups_are_answered_from_the_population():
    text = "price ~ x + town + (1 | county)"
    latents = {name: LATENTS[name] for name in ("Intercept_centred", "town", "sigma")}
    latents |= {"x": LATENTS["scale(x)"], "county_sd": LATENTS["county_sd"][:, 0]}
    latents["county_z"] = LATENTS["county_z"][..., 0]
    predictor = predictor_of(text, latents, unseen=pi.Unseen.POPULATION)
    closed = predictor_of(text, latents)
    rows = NEW.assign(county=["q", "new", "also new"])
    p, known = predictor.predict(rows), closed.predict(NEW)
    assert p.mean[0] == known.mean[0]
    # 4,000 effects: the mean without one is met within four Monte Carlo errors, 6e-5 by chance
    mean = latents["county_sd"][:, None] * latents["county_z"]
    level = {"s": 3, "p": 0}
    plain = [known.mean[i] - mean[:, level[NEW.county[i]]].mean() for i in (1, 2)]
    spread = np.sqrt((latents["county_sd"] ** 2).mean() / 4000)
    assert np.abs(p.mean[1:] - plain).max() < 4 * spread
    assert np.abs(known.mean[1:] - plain).max() > 4 * spread  # the twin: another county's effects
    with pytest.raises(PredictionError, match="town is 'D'"):
        predictor.predict(rows.assign(town="D"))


CROSSED = FRAME[(FRAME.county != "p") | (FRAME["class"] != 2)].reset_index(drop=True)
NESTED = "price ~ 1 + (1 | county/class)"
EFFECTS = {"Intercept": LATENTS["Intercept_centred"], "sigma": LATENTS["sigma"]}
EFFECTS |= {"county_sd": LATENTS["county_sd"][:, 1], "county_z": LATENTS["county_z"][..., 1]}
EFFECTS |= {"county:class_sd": LATENTS["county_sd"][:, 0], "county:class_z": rng.normal(size=(DRAWS, 7))}
SEEN = {"county": ["p", "q", "s"], "class": [1, 1.0, "2"]}
OTHERS = {"county": ["p", "new", "s", "new"], "class": [2, 1, 3, 9]}


@pytest.fixture(scope="module")
def nested():
    """One that knows combinations of training only, and one that answers others too."""
    return [predictor_of(NESTED, EFFECTS, CROSSED, unseen=unseen) for unseen in (pi.Unseen.ERROR, pi.Unseen.POPULATION)]


def known_part(rows):
    """(draws, rows): the intercept and the effects of counties, without those of combinations."""
    effect = EFFECTS["county_sd"][:, None] * EFFECTS["county_z"]
    return EFFECTS["Intercept"][:, None] + np.array([effect[:, "pqrs".index(county)] for county in rows["county"]]).T


def test_a_combination_that_training_has_not_seen_is_refused(nested, tmp_path):
    closed, _ = nested
    effect = EFFECTS["county:class_sd"][:, None] * EFFECTS["county:class_z"]
    p = closed.predict(SEEN)
    assert np.allclose(p.mean, (known_part(SEEN) + effect[:, [0, 1, 6]]).mean(axis=0))
    assert [(entry.name, entry.dtype) for entry in closed.inputs] == [("county", "text"), ("class", "text")]
    with pytest.raises(PredictionError, match=r"county:class is 'p:2' in row 1 .* seen. It knows p:1, q:1, q:2"):
        closed.predict({"county": ["p", "p"], "class": [1, 2]})
    with pytest.raises(PredictionError, match="class is missing in row 1"):
        closed.predict({"county": ["p", "p"], "class": [1, None]})
    closed.save(tmp_path / "nested")
    loaded = pi.load_predictor(tmp_path / "nested")
    assert loaded.predict(SEEN).mean.tolist() == p.mean.tolist()
    with pytest.raises(PredictionError, match="county:class is 'p:2' in row 0"):
        loaded.predict({"county": "p", "class": 2})
    served = load("nested", tmp_path / "nested")
    (answer,) = served.answer([served.question(served.example(2), 2)])  # what the page and the document show
    assert np.isfinite(answer.lower).all()
    assert {field.name: field.choices for field in served.fields} == {
        "county": ("p", "q", "r", "s"),
        "class": ("1", "2"),
    }


def test_combinations_that_are_new_are_answered_from_their_population(nested, tmp_path):
    """A known county with a class that it had not, a new county, a new class, and both."""
    closed, predictor = nested
    assert predictor.predict(SEEN).mean.tolist() == closed.predict(SEEN).mean.tolist()
    p = predictor.predict(OTHERS)
    plain = known_part({"county": ["p", "s"]})
    between, within = (EFFECTS["county_sd"] ** 2).mean(), (EFFECTS["county:class_sd"] ** 2).mean()
    error = 4 * np.sqrt([within, between + within, within, between + within]) / np.sqrt(4000)
    middle = EFFECTS["Intercept"].mean()
    exact = np.array([plain[:, 0].mean(), middle, plain[:, 1].mean(), middle])
    assert (np.abs(p.mean - exact) < error).all()
    spread = [plain[:, 0].var() + within, EFFECTS["Intercept"].var() + between + within]
    assert np.allclose(p.epistemic_sd[:2] ** 2, spread, rtol=0.15)
    # the twin: the effects of a combination that training has
    twin = known_part({"county": ["p"]})[:, 0] + EFFECTS["county:class_sd"] * EFFECTS["county:class_z"][:, 0]
    assert abs(twin.mean() - exact[0]) > error[0] or abs(twin.var() / spread[0] - 1) > 0.15
    predictor.save(tmp_path / "nested")
    assert pi.load_predictor(tmp_path / "nested").predict(OTHERS).mean.tolist() == p.mean.tolist()
    chosen = predictor_of(NESTED, EFFECTS, CROSSED, unseen={"county:class": pi.Unseen.POPULATION})
    assert np.isfinite(chosen.predict({"county": "p", "class": 2}).mean).all()
    with pytest.raises(PredictionError, match="county is 'new'"):
        chosen.predict(OTHERS)


def test_combinations_in_onnx(nested, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    closed, _ = nested
    for each in nested:
        each.export_onnx(tmp_path / "model.onnx")
        session = runtime.InferenceSession(tmp_path / "model.onnx")
        texts = {name: np.array([str(value) for value in values], object) for name, values in SEEN.items()}
        texts["class"][1] = "1"
        assert np.allclose(session.run(["mean"], texts)[0], closed.predict(SEEN).mean, rtol=1e-9)
        new = {"county": np.array(["p", "p", ""], object), "class": np.array(["2", "9", "1"], object)}
        assert np.isnan(session.run(["mean"], new)[0]).all()


def test_what_the_outcome_does_not_read_of_a_combination_is_no_input_of_its_own():
    """Whose labels would have to be known: a column of numbers once read the first of all columns for its length."""
    latents = {name: EFFECTS[name] for name in ("Intercept", "sigma", "county:class_sd", "county:class_z")}
    latents |= {"Intercept_centred": latents.pop("Intercept"), "x": LATENTS["scale(x)"]}
    text = "price ~ x + (1 | county:class)"
    predictor = predictor_of(text, latents, CROSSED, unseen=pi.Unseen.POPULATION)
    assert [entry.name for entry in predictor.program.inputs] == ["x", "county:class"]
    assert np.isfinite(predictor.predict({"x": 0.0, "county": "new", "class": 1}).mean).all()


def test_labels_with_colons_are_no_other_combination():
    frame = CROSSED.assign(county=CROSSED.county.replace("p", "q:1"), **{"class": CROSSED["class"].replace(1, "1:1")})
    predictor = predictor_of(NESTED, EFFECTS, frame)
    with pytest.raises(PredictionError, match="county:class is"):
        predictor.predict({"county": "q:1", "class": "2"})
    assert np.isfinite(predictor.predict({"county": ["q:1", "q"], "class": ["1:1", "1:1"]}).mean).all()


@pytest.mark.long
def test_trials_and_exposures_are_columns_of_the_rows():
    latents = {"Intercept_centred": LATENTS["Intercept_centred"], "x": 0.1 * LATENTS["scale(x)"]}
    binomial = predictor_of("proportion(deaths, cases) ~ x", latents, family=pi.Family.BINOMIAL)
    counts = predictor_of("deaths ~ x + offset(log(cases))", latents, family=pi.Family.POISSON)
    x = np.array([1.0, 4.0])
    eta = latents["Intercept_centred"][:, None] + latents["x"][:, None] * (x - FRAME.x.mean())
    rows = {"x": x, "cases": [10, 20]}
    assert np.allclose(binomial.predict(rows).mean, (special.expit(eta) * [10, 20]).mean(axis=0))
    assert np.allclose(counts.predict(rows).mean, (np.exp(eta) * [10, 20]).mean(axis=0))


def test_onnx_gives_the_same(predictor, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    predictor.export_onnx(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    feed = {name: NEW[name].to_numpy() for name in ("x", "z", "town", "county")}
    feed = {name: values.astype(float) if name in "xz" else values.astype(object) for name, values in feed.items()}
    mean = session.run(["mean"], feed)[0]
    assert np.allclose(mean, predictor.predict(NEW).mean, rtol=1e-9)


@pytest.mark.long
def test_from_a_table_to_a_prediction():
    """The whole way, with the sampler: what generated the data is inside the intervals that it should be in."""
    n, generator = 400, np.random.default_rng(3)
    x, g = generator.normal(size=n), generator.integers(0, 10, n)
    level = generator.normal(0, 0.8, 10)
    frame = pd.DataFrame({"x": x, "g": [f"g{k}" for k in g], "t": generator.choice(["A", "B"], n)})
    frame["y"] = 1 + 2 * x + 0.5 * (frame.t == "B") + level[g] + generator.normal(0, 0.7, n)
    posterior = pi.infer(pi.formula("y ~ x + t + (1 | g)", centred=["g"]), frame, progress=False)
    assert posterior.report.verdict is pi.Verdict.GOOD
    summary = posterior.summary()
    for name, truth in {"x": 2.0, "t[t_dim=B]": 0.5, "sigma": 0.7}.items():
        assert abs(summary["mean"][name] - truth) < 4 * summary["sd"][name], name
    assert list(posterior.tree.posterior["g_effect"].coords["g"].values) == [f"g{k}" for k in range(10)]
    p = pi.Predictor(posterior).predict(frame)
    assert abs(np.mean((frame.y > p.lower) & (frame.y < p.upper)) - 0.9) < 4 * np.sqrt(0.09 / n)
