"""A headless Chromium that a test types into, spoken to over two pipes in the DevTools protocol."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_SWITCHES = ("--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe")
# Chromium reads from 3 and writes to 4.
_PIPED = (
    "import fcntl, os, sys; read, write = (fcntl.fcntl(int(one), fcntl.F_DUPFD, 10) for one in sys.argv[1:3]); "
    "os.dup2(read, 3); os.dup2(write, 4); os.execvp(sys.argv[3], sys.argv[3:])"
)
_ENTER = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}


@contextlib.contextmanager
def browsing(address, folder):
    """A page in a browser that keeps its files in `folder`."""
    if PROGRAM is None:
        pytest.skip("there is no Chromium here")
    heard, said = os.pipe(), os.pipe()  # what it reads, what it writes
    ends = heard[0], said[1]
    browser = subprocess.Popen(
        [sys.executable, "-c", _PIPED, *map(str, ends), PROGRAM, *_SWITCHES, f"--user-data-dir={folder}"],
        pass_fds=ends, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(heard[0])
    os.close(said[1])
    try:
        yield Page(heard[1], said[0], address)
    finally:
        browser.kill()
        browser.wait(30)
        os.close(heard[1])
        os.close(said[0])


class Page:
    """One page, and what a person does with it."""

    def __init__(self, write, read, address):
        self._write, self._read, self._number, self._rest, self._session = write, read, 0, b"", None
        target = self._call("Target.createTarget", url=address)["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def type(self, selector, text):
        """Replace what is in a field, and press Enter."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).select()")
        self._call("Input.insertText", text=text)
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, **_ENTER)

    def narrow(self, width):
        """Look at the page on a telephone."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=True)

    def evaluate(self, expression):
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, expression, seconds=60.0):
        """Wait until an expression is something, and give it."""
        end = time.monotonic() + seconds
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, self.evaluate("document.body.innerText")
            time.sleep(0.05)
        return found

    def _call(self, method, **parameters):
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                assert select.select([self._read], [], [], 120.0)[0], f"no answer to {method}"
                part = os.read(self._read, 65536)
                assert part, "the browser is gone"
                self._rest += part
            one, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(one)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
