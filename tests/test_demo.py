"""The demo: its data are what they are said to be, its baselines are least squares, and it runs from end to end."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probinfer import cli
from probinfer.demo import picture, radon, run
from probinfer.demo.baselines import pooled, rmse, unpooled
from probinfer.errors import MissingExtra

SOURCE = Path(__file__).parents[2] / "shared" / "posteriordb" / "data" / "radon_mn.json"


@pytest.fixture(scope="module")
def houses() -> pd.DataFrame:
    return radon.read_houses()


def test_the_data_are_919_houses_in_85_counties(houses):
    assert list(houses) == ["county", "floor", "log_uranium", "log_radon"]
    assert len(houses) == 919
    assert sorted(houses["county"].unique()) == list(range(85))
    assert set(houses["floor"]) == {0, 1}
    assert (houses.groupby("county")["log_uranium"].nunique() == 1).all()
    assert houses["log_radon"].mean() == pytest.approx(1.264779, abs=1e-5)


@pytest.mark.skipif(not SOURCE.exists(), reason="the collection that the data were taken from is not beside the clone")
def test_the_data_are_those_of_the_source(houses):
    source = json.loads(SOURCE.read_text())
    assert (houses["county"] + 1).tolist() == source["county_idx"]
    assert houses["floor"].tolist() == source["floor_measure"]
    np.testing.assert_allclose(houses["log_uranium"], source["log_uppm"], atol=5.1e-7)
    np.testing.assert_allclose(houses["log_radon"], source["log_radon"], atol=5.1e-7)


def test_no_county_is_new_to_the_model(houses):
    train, test = radon.split(houses)
    assert len(train) + len(test) == len(houses)
    assert set(train.index).isdisjoint(test.index)
    assert set(train["county"]) == set(range(85))
    assert 0.15 < len(test) / len(houses) < 0.2


def test_unpooled_is_least_squares_with_a_column_for_each_county(houses):
    train, test = radon.split(houses)
    columns = pd.get_dummies(train["county"], dtype=float).assign(floor=train["floor"]).to_numpy()
    coefficients, *_ = np.linalg.lstsq(columns, train["log_radon"].to_numpy(), rcond=None)
    rows = (
        pd.get_dummies(test["county"], dtype=float)
        .reindex(columns=range(85), fill_value=0.0)
        .assign(floor=test["floor"])
    )
    np.testing.assert_allclose(unpooled(train, test, minimum=1), rows.to_numpy() @ coefficients, rtol=1e-10)


def test_unpooled_leans_on_pooled_where_a_county_has_too_few_houses(houses):
    train, test = radon.split(houses)
    small = test["county"].map(train["county"].value_counts()).to_numpy() < 5
    assert 0 < small.sum() < len(test)
    same = unpooled(train, test, minimum=5) == pooled(train, test)
    np.testing.assert_array_equal(same, small)


def test_pooled_residuals_are_orthogonal_to_the_predictors(houses):
    residual = houses["log_radon"] - pooled(houses, houses)
    for column in (np.ones(len(houses)), houses["log_uranium"], houses["floor"]):
        assert abs(residual @ column) < 1e-8


def test_rmse():
    assert rmse(np.array([1.0, 2.0]), np.array([1.0, 4.0])) == pytest.approx(2**0.5)


@pytest.fixture(scope="module", params=[1500, pytest.param(run.DRAWS, marks=pytest.mark.long)])
def demo(request, tmp_path_factory) -> tuple[Path, str]:
    """Folder and printed text of one run of the demo, over a folder as an earlier one leaves it; with fewer draws than
    usual by default."""
    import contextlib
    import io

    folder = tmp_path_factory.mktemp("demo") / "out"
    shutil.copytree(Path(__file__).parent / "predict" / "stored" / "v1-normal", folder / "predictor")
    (folder / "predictions.csv").write_text("what was here before")
    with contextlib.redirect_stdout(io.StringIO()) as text, pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "DRAWS", request.param)
        assert cli.main(["demo", "--output", str(folder)]) == 0
    return folder, text.getvalue()


def test_the_demo_leaves_what_it_says(demo):
    folder, text = demo
    assert {path.name for path in folder.iterdir()} == {"predictor", "houses.csv", "predictions.csv", "predictions.png"}
    for path in folder.iterdir():
        assert path.name in text
    assert (folder / "predictions.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_tells_verdict_coverage_and_errors(demo):
    folder, text = demo
    scored = pd.read_csv(folder / "predictions.csv")
    _, test = radon.split(radon.read_houses())
    measured = test["log_radon"].to_numpy()
    inside = int(((scored["lower"] <= measured) & (measured <= scored["upper"])).sum())
    assert "good" in text.lower()
    assert f"90% intervals hold {inside} of 164 houses" in text
    assert f"{rmse(scored['mean'].to_numpy(), measured):.4f}" in text
    # 164 houses at 0.9: the count is outside 128..162 with probability below 1e-5 if the intervals are right
    assert 128 <= inside <= 162


def test_the_demos_intervals_are_the_predictors(demo):
    folder, _ = demo
    cli.main(
        ["score", str(folder / "predictor"), str(folder / "houses.csv"), str(folder / "again.csv"), "--level", "0.9"]
    )
    pd.testing.assert_frame_equal(pd.read_csv(folder / "again.csv"), pd.read_csv(folder / "predictions.csv"))
    (folder / "again.csv").unlink()


def test_without_matplotlib_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"probinfer\[plot\]"):
        picture.draw(tmp_path / "picture.png", pd.DataFrame(), pd.DataFrame(), 0.9)
    assert list(tmp_path.iterdir()) == []
