"""A small saved predictor, exact and quick to make; a PostgreSQL server that lives as long as the tests."""

import functools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import probinfer as pi
from probinfer.deploy import score as scoring
from tests.deploy.houses import LEVELS, houses

LOADED = functools.lru_cache(maxsize=8)(pi.load_predictor)


@pytest.fixture(autouse=True)
def loaded_once(monkeypatch):
    """Every test would compile the same programs anew."""
    monkeypatch.setattr(scoring, "load_predictor", LOADED)


@pytest.fixture(scope="module")
def client(server):
    """Of the module's server, which comes with its service."""
    return server[0]


@pytest.fixture(scope="package")
def quick(tmp_path_factory) -> Path:
    """Folder of a predictor with the inputs x and group."""
    rng = np.random.default_rng(0)
    data = {"x": rng.normal(size=40), "group": np.arange(40) % LEVELS, "J": LEVELS}
    data["y"] = data["x"] + rng.normal(size=40)
    path = tmp_path_factory.mktemp("quick") / "predictor"
    pi.Predictor(pi.infer(houses, data, pi.Exact(draws=100), progress=False)).save(path)
    return path


PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture(scope="package")
def postgres():
    """A fresh PostgreSQL server on 127.0.0.1."""
    if not PROGRAMS:
        pytest.skip("PostgreSQL's server is not installed (Debian: postgresql)")
    if os.geteuid() == 0 and "postgres" not in {entry.pw_name for entry in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres to run it as")
    folder = Path(tempfile.mkdtemp(prefix="probinfer-postgres-"))  # another user has to get there, so not pytest's own
    server = Server(folder, PROGRAMS[-1].parent)
    try:
        server.start()
        yield server
        server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Server:
    """A PostgreSQL server of the tests' own."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        # PostgreSQL refuses to run as root
        self.user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            folder.chmod(0o755)
            shutil.chown(folder, "postgres", "postgres")
        (folder / "password").write_text("s3cret")
        self._run(
            "initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder}/password", "--no-sync", "-E", "UTF8"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://tester:s3cret@127.0.0.1:{self.port}/postgres"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), "-D", f"{self.folder}/data", *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120, **self.user)

    def start(self) -> None:
        """Start, and wait until it answers."""
        settings = (
            "-p",
            str(self.port),
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            f"unix_socket_directories={self.folder}",
        )
        with open(self.folder / "log", "a") as log:
            command = [str(self.programs / "postgres"), "-D", f"{self.folder}/data", *settings, "-c", "fsync=off"]
            self.process = subprocess.Popen(command, cwd="/", stdout=log, stderr=log, **self.user)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0 and "ready to accept" in self.log().splitlines()[-1]:
                    return
            time.sleep(0.1)
        raise TimeoutError(self.log())

    def log(self) -> str:
        """What the server has said."""
        return (self.folder / "log").read_text()

    def stop(self) -> None:
        """Stop at once: connections are cut."""
        self.process.send_signal(3)  # SIGQUIT
        self.process.wait(60)
