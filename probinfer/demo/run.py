"""`probinfer demo`: fit, check, save, score, draw, and time each stage. Imports the public names, as a user would."""

import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd

import probinfer as pi
from probinfer.demo import picture
from probinfer.demo.baselines import pooled, rmse, unpooled
from probinfer.demo.radon import OUTCOME, PREDICTORS, as_data, radon, read_houses, split
from probinfer.deploy.score import score

LEVEL = 0.9
DRAWS = 3000  # a chain: county_sd reaches down to zero, and that tail needs more draws than the default
SHOWN = ["intercept", "uranium_effect", "floor_effect", "county_sd", "sigma"]


def run(output: Path) -> None:
    """Run the demo; leave predictor, tables and picture in `output`."""
    began = time.perf_counter()
    output.mkdir(parents=True, exist_ok=True)
    houses = read_houses()
    train, test = split(houses)
    print(f"Radon in {len(houses)} houses of {houses['county'].nunique()} Minnesota counties.")
    print(f"{len(train)} houses to learn from, {len(test)} held out.")

    with stage("Fit a hierarchical regression"):
        posterior = pi.infer(radon, as_data(train), pi.NUTS(draws=DRAWS), seed=1)
    print(posterior.report)
    print(posterior.summary(level=LEVEL, var_names=SHOWN).to_string(float_format="{:.3g}".format))

    with stage("Save the predictor"):
        predictor = pi.Predictor(posterior, outcome=OUTCOME)
        predictor.save(output / "predictor")

    test[PREDICTORS].to_csv(output / "houses.csv", index=False)
    with stage(f"Score the {len(test)} held-out houses"):
        score(output / "predictor", output / "houses.csv", output / "predictions.csv", level=LEVEL)
    scored = pd.read_csv(output / "predictions.csv").assign(log_radon=test[OUTCOME].to_numpy())

    _compare(scored, train, test)
    drawn = True
    with stage("Draw the predictions"):
        try:
            picture.draw(output / "predictions.png", scored, county_levels(predictor, train), LEVEL)
        except pi.MissingExtra as error:
            drawn = False
            print(f"no picture: {error}")
    _close(output, drawn, time.perf_counter() - began)


@contextmanager
def stage(name: str) -> Generator[None]:
    """Announce a stage, and say how many seconds it took."""
    print(f"\n── {name}", flush=True)
    began = time.perf_counter()
    yield
    print(f"   {time.perf_counter() - began:.1f} s", flush=True)


def county_levels(predictor: "pi.Predictor", train: pd.DataFrame) -> pd.DataFrame:
    """One row a county: uranium, houses, the mean measured in them, and the level that the model estimates for a
    basement.

    The level's interval is that of the mean, so it is made from the epistemic standard deviation.
    """
    counties = train.groupby("county", as_index=False).agg(
        log_uranium=("log_uranium", "first"),
        houses=("floor", "size"),
        radon=(OUTCOME, "mean"),
        upstairs=("floor", "mean"),
    )
    basement = predictor.predict(_rows(counties, floor=0))
    above = predictor.predict(_rows(counties, floor=1))
    observed = counties["radon"] - counties["upstairs"] * (above.mean - basement.mean)
    half_width = NormalDist().inv_cdf((1 + LEVEL) / 2) * basement.epistemic_sd
    return counties.assign(observed=observed, mean=basement.mean, half_width=half_width)


def _rows(counties: pd.DataFrame, floor: int) -> dict[str, np.ndarray]:
    return {
        "county": counties["county"].to_numpy(),
        "floor": np.full(len(counties), floor),
        "log_uranium": counties["log_uranium"].to_numpy(),
    }


def _compare(scored: pd.DataFrame, train: pd.DataFrame, test: pd.DataFrame) -> None:
    measured = scored[OUTCOME].to_numpy()
    inside = scored[OUTCOME].between(scored["lower"], scored["upper"])
    error = np.sqrt(LEVEL * (1 - LEVEL) / len(scored))
    print(f"\n{LEVEL:.0%} intervals hold {inside.sum()} of {len(scored)} houses: {inside.mean():.3f}", end="")
    print(f" (binomial standard error {error:.3f})")
    print("Root mean squared error of log radon:")
    print(f"  hierarchical                     {rmse(scored['mean'].to_numpy(), measured):.4f}")
    print(f"  pooled: one line for all         {rmse(pooled(train, test), measured):.4f}")
    print(f"  unpooled: each county by itself  {rmse(unpooled(train, test), measured):.4f}")


def _close(output: Path, drawn: bool, seconds: float) -> None:
    folder = output / "predictor"
    print(f"\nDone in {seconds:.1f} s. In {output}:")
    if drawn:
        print("  predictions.png   the predictions as a picture: open it next")
    print("  predictions.csv   the predictions as a table")
    print("  houses.csv        the held-out houses that they are for, without their radon")
    print("  predictor/        the saved predictor")
    print("\nTo see what is in the predictor, and to score the table again (in a clone, with `uv run` in front):")
    print(f"  probinfer inspect {folder}")
    print(f"  probinfer score {folder} {output / 'houses.csv'} {output / 'predictions.csv'} --level {LEVEL}")
    print(f"\nThe model is one file, to copy and change: {radon.__code__.co_filename}")
