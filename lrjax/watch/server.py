"""The server of the page: on this machine alone, and it changes nothing.

But for one thing: a press of the button writes the report, as `--mode=report` does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from lrjax.common import files
from lrjax.messages import STOPPING, UsageError, printable
from lrjax.watch.board import Board
from lrjax.watch.pace import Painter

_ADDRESS = "127.0.0.1"
_NAMES = ("127.0.0.1", "localhost", "[::1]")  # of this machine, in the header Host
_ALIVE = 15.0  # seconds after which a page without news gets a sign of life
_EVERY = 1.0  # seconds between two events, at least
_NOTICED = 0.2  # seconds after which a signal ends the program, at most
_STUCK = 60.0  # seconds after which a reader that takes nothing is left
_LARGEST = 2**28  # bytes of a file of the report
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".csv": "text/csv; charset=utf-8",
    ".tex": "text/plain; charset=utf-8",
}
_BELOW = re.compile(r"(?:(?:figures|tables)/)?[\w-][\w.-]*")
# Pages of the report have their own script, and load nothing.
_OF_REPORT = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'"
)


def watch(workdir: str, port: int) -> NoReturn:
    """Serve the page until a signal comes, and end the process with code 0.

    Args:
      workdir: a working directory; it may come later.
      port: 0 for any that is free.

    Raises:
      UsageError: if the path is a file, or the port is taken.
    """
    folder = files.expanded(workdir)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UsageError(
            f"--workdir={workdir} is a file, not a directory of results"
            if there == folder
            else f"--workdir={workdir} cannot be a directory: {there} is a file"
        )
    if (folder / "race.jsonl").exists():
        raise UsageError(
            f"--workdir={workdir} is the folder of a race, which has no such page: "
            f"lrjax report --from=race:{workdir} shows its runs so far"
        )
    received: list[int] = []
    for number in STOPPING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: received.append(number))
    with start(folder, port) as server:
        print(
            f"watching {printable(str(folder))}: http://{_ADDRESS}:{server.server_port}"
            "/ (Ctrl-C ends it)",
            flush=True,
        )
        while not received:  # a handler must not touch locks that this would hold
            time.sleep(_NOTICED)
    # A thread that imports or draws must not see the interpreter go.
    sys.stdout.flush()
    os._exit(0)


def start(folder: Path, port: int = 0) -> Server:
    """Start to serve a page, in threads that end with the process.

    Args:
      folder: a working directory; it may come later.
      port: 0 for any that is free.

    Raises:
      UsageError: if the port is taken.
    """
    try:
        server = Server(folder, port)
    except OSError as error:
        raise UsageError(f"--port={port}: {files.words(error)}") from error
    for work in (server.serve_forever, server.painter.run):
        threading.Thread(target=work, daemon=True).start()
    return server


class Server(ThreadingHTTPServer):
    """Serves the page of a working directory.

    Attributes:
      folder: the working directory.
      board: what pages show.
      painter: keeps it up to date.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, folder: Path, port: int):
        self.folder = folder
        self.board = Board()
        self.painter = Painter(folder, self.board)
        super().__init__((_ADDRESS, port), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of browsers that have gone; what is a fault is shown."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    timeout = _STUCK

    def do_GET(self) -> None:
        """Send the page, its events, or a file of the report."""
        path = self._path()
        if not self._is_local():
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for its own machine.")
        elif path == "/":
            from lrjax.watch import document

            text = document.render(str(self.server.folder))
            self._send(text.encode(), _KINDS[".html"], document.policy())
        elif path == "/events":
            self._stream()
        elif path.startswith("/report/"):
            self._send_report(path.removeprefix("/report/") or "index.html")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def do_POST(self) -> None:
        """Write the report if it is missing or older than the tables, and go there."""
        if not self._is_local() or not self._is_own_page():
            self._refuse(HTTPStatus.FORBIDDEN, "This page is for its own machine.")
        elif self._path() != "/report":
            self._refuse(HTTPStatus.NOT_FOUND, "There is nothing here.")
        else:
            try:
                with self.server.painter.drawing:
                    _write_report(self.server.folder)
            except Exception as error:  # tables may hold anything
                self._refuse(HTTPStatus.CONFLICT, f"No report was written: {error}")
                return
            self.send_response(HTTPStatus.SEE_OTHER)
            self.send_header("Location", "/report/")
            self.end_headers()

    def _path(self) -> str:
        """The path that is asked for; '' if it is none."""
        try:
            return urlsplit(self.path).path
        except ValueError:
            return ""

    def _is_local(self) -> bool:
        """Whether the browser asked for this machine.

        A page of others can have its own name stand for this machine; then Host has
        that name.
        """
        host = self.headers.get("Host", "")
        return re.sub(r":\d+$", "", host) in _NAMES

    def _is_own_page(self) -> bool:
        """Whether a form was sent by our own page."""
        origin = self.headers.get("Origin")
        return origin in (None, f"http://{self.headers.get('Host')}")

    def _stream(self) -> None:
        """Send parts as they change, until the browser goes."""
        self._begin(HTTPStatus.OK, "text/event-stream; charset=utf-8")
        mark = self.headers.get("Last-Event-ID", "")
        self.wfile.write(b"retry: 2000\n\n")
        with self.server.board.looking():
            while True:
                news = self.server.board.wait(mark, _ALIVE)
                if news is None:
                    self.wfile.write(b":\n\n")
                    continue
                mark = news.mark
                data = json.dumps({"anew": news.anew, "parts": news.parts})
                self.wfile.write(f"id: {mark}\ndata: {data}\n\n".encode())
                time.sleep(_EVERY)

    def _send_report(self, below: str) -> None:
        """Send a file of the report."""
        folder = self.server.folder / "report"
        kind = _KINDS.get(Path(below).suffix)
        try:
            if not kind or not _BELOW.fullmatch(below) or _is_elsewhere(folder, below):
                raise FileNotFoundError
            content = files.read_own(folder / below, _LARGEST)
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such file in the report.")
            return
        self._send(content, kind, _OF_REPORT)

    def _send(self, content: bytes, kind: str, policy: str) -> None:
        """Send a whole answer."""
        self._begin(HTTPStatus.OK, kind, policy, len(content))
        self.wfile.write(content)

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        """Send a line of text."""
        content = f"{why}\n".encode("utf-8", "replace")
        self._begin(status, "text/plain; charset=utf-8", length=len(content))
        self.wfile.write(content)

    def _begin(
        self,
        status: HTTPStatus,
        kind: str,
        policy: str = "default-src 'none'",
        length: int | None = None,
    ) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.send_header("Content-Security-Policy", policy)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "same-origin")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests."""

    def version_string(self) -> str:
        """The name of the server."""
        return "lrjax"


def _is_elsewhere(folder: Path, below: str) -> bool:
    """Whether a link leads out of the folder."""
    return (folder / below).resolve() != folder.parent.resolve() / "report" / below


def _write_report(workdir: Path) -> None:
    """Write the report, unless it is newer than all tables.

    Raises:
      UsageError: if there is nothing to report.
    """
    from lrjax import reports
    from lrjax.reports import selected
    from lrjax.tables import parts, reader

    index = workdir / "report" / "index.html"
    names = (*reader.KEYS, selected.ANSWER, parts.FOLDER)
    made = [p.stat().st_mtime_ns for n in names if (p := workdir / n).exists()]
    newest = max(made, default=0)
    if index.exists() and index.stat().st_mtime_ns >= newest:
        return
    reports.write([workdir], workdir / "report", reports.Options(), workdir)
    # As old as what was read, since tables may have grown meanwhile.
    os.utime(index, ns=(newest, newest))
