"""Conformal intervals: probinfer's next to those of MAPIE and crepes, around the same point predictions.

    sh benchmarks/peers/install.sh conformal
    python -m benchmarks.conformal [--repeat 30] [--dry]

Data: Friedman's function with noise that grows with an input (three times in one of two groups), split anew for every
repetition into training, calibration and 2000 new rows; gradient boosting gives the points. Coverage and mean width at
90%, over the repetitions with its standard error, overall and in the noisy group; CRPS of the predictive distribution,
for probinfer from 199 conformal quantiles. CV+ needs no calibration rows: both refit the model to the training rows
without each of ten folds, which are the same for both. Writes a section of RESULTS.md unless --dry.
"""

import argparse
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.model_selection import KFold

import probinfer as pi
from benchmarks.results import circumstances, write_section

PEERS = Path(__file__).parent / "peers"
TITLE = "Conformal intervals next to MAPIE and crepes"
LEVEL, FOLDS = 0.9, 10
INPUTS = [f"x{i}" for i in range(5)]
GRID = np.arange(1, 200) / 200


def friedman(count: int, rng: np.random.Generator) -> pd.DataFrame:
    x = rng.uniform(size=(count, 5))
    mean = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    group = rng.integers(0, 2, count)
    frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(5)])
    return frame.assign(group=group, y=mean + np.where(group == 1, 3.0, 1.0) * rng.normal(size=count))


class Peers:
    """MAPIE and crepes in their own environment, for all the runs."""

    def __init__(self) -> None:
        command = [str(PEERS / ".envs" / "conformal" / "bin" / "python"), str(PEERS / "peer_conformal.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, path: str) -> dict[str, np.ndarray]:
        self._process.stdin.write(path + "\n")
        self._process.stdin.flush()
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("benchmarks/peers/peer_conformal.py ended; its error is above.")
        return dict(np.load(path + ".out.npz"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)


def ours(predictor: pi.PointPredictor, kept: pd.DataFrame, new: pd.DataFrame) -> tuple[dict[str, np.ndarray], float]:
    """Both ends for each new row, and the CRPS: twice the mean pinball loss over a grid of quantiles."""
    found = {}
    for name, groups in (("probinfer", None), ("probinfer, in groups", "group")):
        p = predictor.calibrate(kept, kept.y, groups=groups).predict(new, level=LEVEL)
        found[name] = np.stack([p.lower, p.upper], axis=1)
    quantiles = predictor.calibrate(kept, kept.y).predict(new, quantiles=GRID).quantiles
    error = new.y.to_numpy()[:, None] - quantiles
    return found, float(2 * np.maximum(GRID * error, (GRID - 1) * error).mean())


def crossed(train: pd.DataFrame, new: pd.DataFrame, seed: int) -> np.ndarray:
    """Both ends for each new row, by CV+."""
    model = GradientBoostingRegressor(random_state=seed)
    folds = KFold(FOLDS, shuffle=True, random_state=seed)
    p = pi.cross_calibrate(model, train[INPUTS], train.y, cv=folds).predict(new[INPUTS], level=LEVEL)
    return np.stack([p.lower, p.upper], axis=1)


def measure(seed: int, peers: Peers, folder: str) -> tuple[dict[str, list[float]], dict[str, float], list[float]]:
    """Coverage, width and coverage in the noisy group, by name; CRPS by name; seconds of our CV+ and of MAPIE's."""
    rng = np.random.default_rng(seed)
    train, kept, new = friedman(500, rng), friedman(499, rng), friedman(2000, rng)
    model = GradientBoostingRegressor(random_state=seed).fit(train[INPUTS], train.y)
    intervals, crps = ours(pi.PointPredictor(model), kept, new)
    began = time.perf_counter()
    intervals["probinfer, CV+"] = crossed(train, new, seed)
    seconds = time.perf_counter() - began
    path = f"{folder}/{seed}.npz"
    points = {"kept": model.predict(kept[INPUTS]), "new": model.predict(new[INPUTS])}
    groups = {"groups": kept.group, "new_groups": new.group}
    rows = {"train": train[INPUTS], "train_y": train.y, "new_x": new[INPUTS], "seed": seed, "folds": FOLDS}
    np.savez(path, y=kept.y, new_y=new.y, level=LEVEL, **points, **groups, **rows)
    theirs = peers(path)
    crepes, their_seconds = float(theirs.pop("crps")), float(theirs.pop("seconds"))
    figures = {}
    for name, ends in {**intervals, **theirs}.items():
        inside = (ends[:, 0] <= new.y) & (new.y <= ends[:, 1])
        noisy = float(inside[new.group == 1].mean())
        figures[name] = [float(inside.mean()), float(np.mean(ends[:, 1] - ends[:, 0])), noisy]
    return figures, {"probinfer": crps, "crepes system": crepes}, [seconds, their_seconds]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.conformal", description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--dry", action="store_true", help="leave RESULTS.md as it is")
    options = parser.parse_args(arguments)
    began, peers, runs = time.perf_counter(), Peers(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.repeat):
            runs.append(measure(seed, peers, folder))
    peers.close()
    lines = ["| | coverage at 90% | of the noisy group | width | CRPS |", "|---|---|---|---|---|"]
    for name in runs[0][0]:
        table = np.array([figures[name] for figures, _, _ in runs])
        error = table.std(axis=0, ddof=1) / np.sqrt(len(table))
        scores = [crps[name] for _, crps, _ in runs if name in crps]
        lines.append(
            f"| {name} | {table[:, 0].mean():.4f} ± {error[0]:.4f} | {table[:, 2].mean():.4f} ± {error[2]:.4f} | "
            f"{table[:, 1].mean():.3f} ± {error[1]:.3f} | {f'{np.mean(scores):.4f}' if scores else ''} |"
        )
    body = (
        f"`python -m benchmarks.conformal --repeat {options.repeat}`, {time.perf_counter() - began:.0f} s. Means over "
        "repetitions ± standard error; the split promises 0.9000 to 0.9040.\n\n"
        + "\n".join(lines)
        + "\n\nCV+, ten folds of 500 rows and 2,000 new ones, with the fits: {:.2f} s by probinfer, {:.2f} s by MAPIE "
        "(medians).".format(*np.median([seconds for *_, seconds in runs], axis=0))
        + f"\n\n{circumstances('probinfer', 'scikit-learn', 'numpy')}"
    )
    print(body)
    if not options.dry:
        write_section(TITLE, body)


if __name__ == "__main__":
    main()
