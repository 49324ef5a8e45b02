"""Headless Chromium, driven through a pipe: no driver and no package is needed."""

import base64
import contextlib
import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATH = next(filter(None, map(shutil.which, NAMES)), None)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--hide-scrollbars"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-pipe"),
)
# Python that becomes a browser, which reads commands from 3 and answers on 4.
_CONNECTED = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
# JavaScript for (contrast, text) of the texts of a page, cells of heat maps apart.
CONTRAST = """
(() => {
  const channel = c => (c /= 255) <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = text => {
    const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(colour)) return colour;
    }
  };
  const texts = [...document.querySelectorAll(
    "h1, h2, h3, p, dt, dd, a, td, th, summary, #chips span, .figure text")];
  return texts.filter(e => !e.closest("#gap, #pairs, #against") || !e.closest("svg"))
    .map(e => {
      const style = getComputedStyle(e);
      const ink = e.closest("svg") ? style.fill : style.color;
      const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x);
      return [(a + .05) / (b + .05), e.textContent.slice(0, 40)];
    });
})()
"""


class Page:
    """One tab.

    Attributes:
      events: (name, parameters) of all that the browser has reported so far.
    """

    def __init__(self, send: int, receive: int):
        self._send, self._receive = send, receive
        self._numbers, self._rest = itertools.count(1), b""
        self.events: list[tuple[str, dict]] = []
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Send a command of the DevTools protocol; give its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode() + b"\0")
        return self._read(lambda m: m.get("id") == number)["result"]

    def _read(self, wanted, seconds: float = 60.0) -> dict:
        end = time.monotonic() + seconds
        while True:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(text)
                if "method" in message:
                    self.events.append((message["method"], message["params"]))
                if wanted(message):
                    assert "error" not in message, message
                    return message
            ready, _, _ = select.select([self._receive], [], [], end - time.monotonic())
            assert ready, "the browser does not answer"
            more = os.read(self._receive, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more

    def open(self, url: str, width: int = 1280, dark: bool = False) -> None:
        """Load a page, as on a screen of that width."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            **{"width": width, "height": 900, "deviceScaleFactor": 1},
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": ("light", "dark")[dark]}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        loaded = "Page.loadEventFired"
        if loaded not in [name for name, _ in self.events]:
            self._read(lambda m: m.get("method") == loaded)

    def evaluate(self, expression: str):
        """The value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def move(self, x: float, y: float) -> None:
        """Move the mouse."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def picture(self, path) -> None:
        """Save the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        with open(path, "wb") as file:
            file.write(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def page():
    """A browser with an empty profile, for a while."""
    asks, answers = os.pipe(), os.pipe()
    ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (asks[0], answers[1])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        # A function for the child would fork this process, of which JAX warns.
        process = subprocess.Popen(
            [
                *(sys.executable, "-S", "-c", _CONNECTED, *map(str, ends)),
                *(PATH, *_FLAGS, f"--user-data-dir={profile}"),
            ],
            pass_fds=ends,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        os.close(asks[0])
        os.close(answers[1])
        try:
            yield Page(asks[1], answers[0])
        finally:
            os.close(asks[1])
            process.terminate()
            process.wait(30)
            os.close(answers[0])
