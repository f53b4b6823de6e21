"""Runs in processes of their own that are killed while they write a checkpoint."""

import signal
import subprocess
import sys
import textwrap
import time


def kill_twice(script, path, grown):
    """Run `script` with the checkpoint's path as its argument and kill it, twice, once the file has `grown` by so many
    bytes, and then by twice as many. Each time something was written."""
    size = 0
    for kill in range(2):
        process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(path)])
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.stat().st_size > size + grown * (kill + 1):
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait(timeout=60)
        assert path.stat().st_size > size
        size = path.stat().st_size
