"""The tree as a whole: imports point one way, and importing probinfer changes nothing outside it."""

import ast
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import probinfer

PACKAGE = Path(probinfer.__file__).parent

# A module may import from stations above its own line, and from its own.
STATIONS = (
    "errors",
    "files",
    "model",
    "inference",
    "posterior",
    "predict",
    "evaluate",
    "decide",
    "gallery",
    "deploy",
    "mlflow",
    "__init__",  # the public names: sees everything that is public
    "demo",  # written as a user would, against the public names
    "cli",
    "__main__",
)


def imports_of(source: str, module: tuple[str, ...]) -> list[tuple[int, tuple[str, ...]]]:
    """Line and dotted name, without the leading "probinfer", of all that a module imports from the package.

    `module` is the module's own place below the package, ("predict", "mixture") for probinfer/predict/mixture.py.
    Imports inside functions and under TYPE_CHECKING count too: an arrow back is an arrow back.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ["probinfer", *module][: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        found += [(node.lineno, tuple(name[1:])) for name in names if name[0] == "probinfer"]
    return found


def violations(source: str, module: tuple[str, ...]) -> list[str]:
    """What is wrong with a module's imports, one line for each that points to a later station."""
    rank = STATIONS.index(module[0])
    wrong = []
    for line, name in imports_of(source, module):
        station = (
            name[0] if name and name[0] in STATIONS else "__init__"
        )  # `import probinfer`, `from probinfer import x`
        if STATIONS.index(station) > rank:
            wrong.append(f"{'/'.join(module)}.py:{line} imports {'.'.join(('probinfer', *name))}, a later station")
    return wrong


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    module = path.relative_to(PACKAGE).with_suffix("").parts
    assert module[0] in STATIONS, f"{module[0]} has no place among the stations: add it to STATIONS where it belongs"
    assert violations(path.read_text(encoding="utf-8"), module) == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from probinfer.predict.predictor import Predictor", ("model", "target")),
        ("import probinfer.cli", ("deploy", "score")),
        ("from ..posterior import datatree", ("inference", "draws")),
        ("from ..predict.mixture import quantile", ("posterior", "__init__")),
        ("import probinfer as pi", ("predict", "predictor")),
        ("def f():\n    from probinfer.deploy import score", ("predict", "artifact")),
        ("if TYPE_CHECKING:\n    from probinfer.posterior.posterior import Posterior", ("model", "model")),
    ],
)
def test_a_planted_arrow_back_is_caught(source, module):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("from probinfer.errors import DataError", ("model", "target")),
        ("from ..errors import DataError\nfrom .target import Target", ("model", "model")),
        ("from . import model", ("model", "__init__")),
        ("import numpyro.distributions as dist", ("model", "model")),
        ("from probinfer.cli import main", ("__main__",)),
    ],
)
def test_an_arrow_forward_is_no_violation(source, module):
    assert violations(source, module) == []


LOOK = """
import json, logging, sys, threading, warnings
import jax, numpyro, numpy
def state():
    return {
        "jax config": {name: repr(value) for name, value in jax.config.values.items()},
        "log handlers": [repr(handler) for handler in logging.getLogger().handlers],
        "probinfer log handlers": [repr(handler) for handler in logging.getLogger("probinfer").handlers],
        "log level": logging.getLogger().level,
        "warning filters": [repr(rule) for rule in warnings.filters],
        "threads": sorted(thread.name for thread in threading.enumerate()),
        "environment": dict(__import__("os").environ),
        "numpy random": repr(numpy.random.get_state()[1].tolist()[:4]),
        "numpy errors": repr(numpy.geterr()),
        "compiled backends": repr(sorted(jax._src.xla_bridge._backends)),
    }
before = state()
loaded = set(sys.modules)
import probinfer
after = state()
changed = {name: [before[name], after[name]] for name in before if before[name] != after[name]}
print(json.dumps({"changed": changed, "modules": sorted(set(sys.modules) - loaded)}))
"""


@pytest.fixture(scope="module")
def effect_of_import() -> dict:
    """What `import probinfer` changes in a fresh process that has jax and numpyro, and which modules it adds."""
    result = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True, timeout=120)
    return json.loads(result.stdout)


def test_importing_changes_nothing_outside(effect_of_import):
    assert effect_of_import["changed"] == {}


LOAD_AND_PREDICT = """
import sys
from probinfer import load_predictor
prediction = load_predictor(sys.argv[1]).predict({"x": [0.0, 1.0]})
assert len(prediction) == 2
heavy = {"numpyro", "pandas", "pyarrow", "xarray", "arviz_base", "arviz_stats", "scipy.stats", "onnx"}
print(sorted(heavy & set(sys.modules)))
"""


def test_a_process_that_only_predicts_does_not_import_what_fits():
    stored = Path(__file__).parent / "predict" / "stored" / "v1-normal"
    command = [sys.executable, "-c", LOAD_AND_PREDICT, str(stored)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert result.stdout.strip() == "[]"


def test_public_names_are_those_of_the_stub():
    """Each line of `__init__.pyi` is read; a name that is not there is no attribute."""
    lines = [line for line in (PACKAGE / "__init__.pyi").read_text().splitlines() if line.startswith("from ")]
    assert len(probinfer.__all__) == len(lines) > 50
    assert set(probinfer.__all__) <= set(dir(probinfer))
    for name in probinfer.__all__:
        assert getattr(probinfer, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'probinfer' has no attribute 'Nuts'"):
        probinfer.Nuts  # noqa: B018


HEAVY = (
    "matplotlib",
    "arviz",
    "arviz_plots",
    "pyarrow",
    "numba",
    "sklearn",
    "optuna",
    "shap",
    "lime",
    "fastapi",
    "onnxruntime",
    "IPython",
    "ipywidgets",
)


def test_importing_leaves_heavy_modules_alone(effect_of_import):
    added = {name.split(".")[0] for name in effect_of_import["modules"]}
    assert added.isdisjoint(HEAVY)


def test_the_version_is_that_of_the_package():
    """Asked for when it is wanted: importing reads no metadata."""
    assert probinfer.__version__ == metadata.version("probinfer")
    assert "__version__" in dir(probinfer)
