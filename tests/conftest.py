"""What every test shares: figures are drawn without a screen, and compiled programs are kept for this run only."""

import atexit
import os
import shutil
import tempfile

os.environ.setdefault("MPLBACKEND", "Agg")

if "PROBINFER_CACHE" not in os.environ:
    os.environ["PROBINFER_CACHE"] = tempfile.mkdtemp(prefix="probinfer-tests-")
    atexit.register(shutil.rmtree, os.environ["PROBINFER_CACHE"], ignore_errors=True)
