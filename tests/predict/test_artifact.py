"""A saved predictor: the same numbers in a new process, and every way of damaging it is refused in words."""

import json
import os
import subprocess
import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import probinfer as pi
from probinfer.predict.artifact import card


def grouped(x, group, J, y=None):
    a = numpyro.sample("a", dist.Normal(0, 1).expand([J]).to_event(1))
    numpyro.sample("y", dist.Normal(a[group] + x, 0.5), obs=y)


def with_cholesky(x, y=None):
    """Its outcome goes through a factorisation: a saved program with one once crashed new processes (jax#29610)."""
    s = numpyro.sample("s", dist.HalfNormal(1))
    covariance = jnp.eye(2) + s * jnp.ones((2, 2))
    factor = jnp.linalg.cholesky(covariance)
    numpyro.sample("y", dist.Normal(x * factor[1, 1] + factor[1, 0], 1.0), obs=y)


METHOD = pi.NUTS(chains=2, draws=100, warmup=150)


def make(model, data):
    return pi.Predictor(pi.infer(model, data, METHOD, progress=False), accept=pi.Verdict.BAD)


@pytest.fixture(scope="module")
def predictor():
    rng = np.random.default_rng(0)
    x, group = rng.normal(size=40), np.arange(40) % 3
    return make(grouped, {"x": x, "group": group, "J": 3, "y": x + group})


@pytest.fixture
def saved(predictor, tmp_path):
    predictor.save(tmp_path / "p")
    return tmp_path / "p"


ROWS = {"x": [0.5, -1.0, 2.0], "group": [0, 1, 2]}


def test_the_loaded_predictor_gives_the_same_numbers(predictor, saved):
    mine, theirs = predictor.predict(ROWS), pi.load_predictor(saved).predict(ROWS)
    for name, values in mine.columns().items():
        np.testing.assert_array_equal(theirs.columns()[name], values, err_msg=name)
    np.testing.assert_array_equal(predictor.sample(ROWS, 5), pi.load_predictor(saved).sample(ROWS, 5))


@pytest.mark.parametrize("model", [grouped, with_cholesky])
def test_a_new_process_gives_the_same_numbers_without_the_model_or_numpyro(model, tmp_path):
    rng = np.random.default_rng(1)
    data = {"x": rng.normal(size=30), "y": rng.normal(size=30)}
    rows = {"x": [0.25, -3.0]}
    if model is grouped:
        data |= {"group": np.arange(30) % 2, "J": 2}
        rows |= {"group": [1, 0]}
    predictor = make(model, data)
    predictor.save(tmp_path / "p")
    script = f"""
    import json
    from probinfer.predict.predictor import load_predictor
    p = load_predictor({str(tmp_path / "p")!r}).predict({rows!r})
    print(json.dumps({{name: list(map(float, values)) for name, values in p.columns().items()}}))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, values in predictor.predict(rows).columns().items():
        np.testing.assert_allclose(json.loads(done.stdout)[name], values, rtol=1e-12, err_msg=name)


def edit(path, change):
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def flip(path):
    file = path / "draws-0.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))


def redirect(target):
    def change(manifest):
        manifest["files"][target] = manifest["files"].pop("draws-0.npy")
        manifest["draws"] = dict.fromkeys(manifest["draws"], target)

    return lambda path: edit(path, change)


def link(path):
    file = path / "draws-0.npy"
    elsewhere = path.parent / "elsewhere.npy"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)


def make_pickle(path):
    """An array of objects in NumPy's format is a pickle; its hash is declared, so only the reader can refuse it."""
    import hashlib

    file = path / "draws-0.npy"
    np.save(file, np.array([{"any": "object"}], dtype=object), allow_pickle=True)
    content = file.read_bytes()
    digest = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(path, lambda manifest: manifest["files"].update({"draws-0.npy": digest}))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (flip, r"draws-0.npy is damaged or was changed: .*SHA-256 differs"),
        (lambda p: (p / "draws-0.npy").write_bytes(b""), "damaged or was changed: 0 bytes, declared"),
        (lambda p: (p / "draws-0.npy").unlink(), r"draws-0.npy is missing; the copy is incomplete"),
        (lambda p: (p / "manifest.json").unlink(), r"manifest.json is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), r"manifest.json is no JSON"),
        (lambda p: edit(p, lambda m: m.update(format_version=99)), r"format version 99; .*reads up to 1.*install that"),
        (lambda p: edit(p, lambda m: m.update(format="other")), "is no saved predictor"),
        (lambda p: edit(p, lambda m: m.pop("draws")), "incomplete: 'draws' is missing"),
        (redirect("../outside.npy"), r"'../outside.npy', which is no name of a file in this folder"),
        (redirect("/etc/passwd"), "'/etc/passwd', which is no name of a file in this folder"),
        (redirect("..\\outside.npy"), "which is no name of a file in this folder"),
        (link, "is a link or no file; a predictor is a folder of plain files"),
        (
            lambda p: (p / "extra.py").write_text("raise SystemExit"),
            "holds extra.py, which its manifest does not declare",
        ),
        (make_pickle, r"draws-0.npy holds no array"),
    ],
)
def test_damage_is_refused_in_words(saved, damage, text):
    damage(saved)
    with pytest.raises(pi.ArtifactError, match=text):
        pi.load_predictor(saved)


def test_what_is_no_artifact(tmp_path):
    with pytest.raises(pi.ArtifactError, match="is no folder; a saved predictor is one"):
        pi.load_predictor(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(pi.ArtifactError, match=r"manifest.json is missing"):
        pi.load_predictor(tmp_path / "empty")


def test_saving_replaces_a_predictor_and_nothing_else(predictor, saved, tmp_path):
    predictor.save(saved)
    assert pi.load_predictor(saved).predict(ROWS).mean.shape == (3,)
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(pi.ArtifactError, match="mine"):
        predictor.save(other)
    assert (other / "thesis.txt").read_text() == "years of work"
    with pytest.raises(pi.ArtifactError, match="is no folder; make it first"):
        predictor.save(tmp_path / "no" / "where")


def test_a_save_that_fails_leaves_the_old_one(predictor, saved, monkeypatch):
    before = sorted((file.name, file.read_bytes()) for file in saved.iterdir())

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        predictor.save(saved)
    assert sorted((file.name, file.read_bytes()) for file in saved.iterdir()) == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["p"]


def test_the_card_says_what_it_is(saved):
    text = card(saved)
    assert "y ~ Normal" in text
    assert "group: int64, 0 to 2" in text
    assert "method: NUTS" in text
    assert "sha-256" in text


def test_no_pickle_is_in_the_folder(saved):
    for file in saved.iterdir():
        assert file.suffix in (".npy", ".json", ".jaxexport")
        if file.suffix == ".npy":
            np.load(file, allow_pickle=False)
