"""The server answers its own machine alone, and tells pages what has changed."""

import functools
import http.client
import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from pathlib import Path

import fabricated
import program
import pytest

from lrjax import command, reports
from lrjax.arguments import rewritten
from lrjax.watch import document, server
from lrjax.watch.board import Board

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A server of a small study, and its directory; it ends at once, not in 0.5 s."""
    serve_forever = socketserver.BaseServer.serve_forever
    monkeypatch.setattr(serve_forever, "__defaults__", (0.01,))
    workdir = fabricated.write(tmp_path / "study", ("t",), ("adam", "sgd"), 2)
    with server.start(workdir) as started:
        yield started, workdir
        started.shutdown()


def ask(served, path, method="GET", **headers):
    """The answer to a request."""
    connection = http.client.HTTPConnection("127.0.0.1", served.server_port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=named)
    answer = connection.getresponse()
    answer.content = answer.read()
    return answer


class Events:
    """The events of a page, as a browser gets them."""

    def __init__(self, served, mark=""):
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", served.server_port, timeout=60
        )
        self._connection.request("GET", "/events", headers={"Last-Event-ID": mark})
        self.answer = self._connection.getresponse()

    def next(self):
        """The mark and content of the next event."""
        mark = ""
        while line := self.answer.readline():
            if line.startswith(b"id: "):
                mark = line[4:].decode().strip()
            if line.startswith(b"data: "):
                return mark, json.loads(line[6:])
        raise AssertionError("no more events")

    def until(self, name):
        """All parts up to one of that name."""
        parts = {}
        while name not in parts:
            parts |= self.next()[1]["parts"]
        return parts

    def close(self):
        self.answer.close()
        self._connection.close()


def test_the_page_may_run_its_own_script_alone(served):
    answer = ask(served[0], "/")
    assert answer.status == 200
    assert answer.content.startswith(b"<!DOCTYPE html>")
    assert b"http" not in answer.content.replace(b"http-equiv", b"")
    policy = answer.getheader("Content-Security-Policy")
    assert policy == document.policy()
    assert "unsafe-inline" not in policy.split("style-src")[0]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.nip.io"]
)
@pytest.mark.parametrize("path", ["/", "/events", "/report/", "/report/index.html"])
def test_other_names_of_this_machine_are_refused(served, host, path):
    answer = ask(served[0], path, Host=host)
    assert answer.status == 403
    assert ask(served[0], "/report", "POST", Host=host).status == 403
    assert not (served[1] / "report").exists()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:99", "[::1]:1234"])
def test_this_machine_is_known_by_its_names(served, host):
    assert ask(served[0], "/", Host=host).status == 200


def test_it_listens_to_this_machine_alone(served):
    assert served[0].server_address[0] == "127.0.0.1"
    me = socket.gethostbyname(socket.gethostname())
    if not me.startswith("127."):
        with pytest.raises(OSError, match=r"."):
            socket.create_connection((me, served[0].server_port), timeout=5)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_else_can_be_asked_for(served, method):
    assert ask(served[0], "/", method).status == 501


PATHS = [
    "/x",
    "/runs.jsonl",
    "/report",
    "/report/../runs.jsonl",
    "/report/%2e%2e/x.csv",
]
PATHS += ["/report/.hidden.csv", "/report//etc/passwd", "/report/index.html\\"]
PATHS += ["/report/figures/../../runs.jsonl", "/report/runs.jsonl", "/report/a.py"]


@pytest.mark.parametrize("path", PATHS)
def test_only_the_report_is_sent(served, path):
    assert ask(served[0], path).status == 404


def test_links_of_the_report_lead_nowhere(served, tmp_path):
    _, workdir = served
    (tmp_path / "secret.csv").write_text("secret")
    (workdir / "report").mkdir()
    (workdir / "report" / "link.csv").symlink_to(tmp_path / "secret.csv")
    (workdir / "report" / "tables").symlink_to(tmp_path)
    for path in ("/report/link.csv", "/report/tables/secret.csv"):
        assert ask(served[0], path).status == 404
    (workdir / "report" / "own.csv").write_text("a\n")
    answer = ask(served[0], "/report/own.csv")
    assert (answer.status, answer.content) == (200, b"a\n")
    assert answer.getheader("Content-Type").startswith("text/csv")


def test_the_report_is_written_when_asked_for(served, monkeypatch):
    _, workdir = served
    quick = functools.partial(reports.Options, bootstrap=10)
    monkeypatch.setattr(reports, "Options", quick)
    assert ask(served[0], "/report/").status == 404
    foreign = ask(served[0], "/report", "POST", Origin="http://evil.example")
    assert foreign.status == 403
    assert not (workdir / "report").exists()
    own = f"http://127.0.0.1:{served[0].server_port}"
    answer = ask(served[0], "/report", "POST", Origin=own)
    assert (answer.status, answer.getheader("Location")) == (303, "/report/")
    page = ask(served[0], "/report/").content
    assert page == (workdir / "report" / "index.html").read_bytes()
    assert ask(served[0], "/report/figures/curves.png").content.startswith(b"\x89PNG")
    # It is not written again before a table has changed.
    written = (workdir / "report" / "index.html").stat().st_mtime_ns
    ask(served[0], "/report", "POST")
    assert (workdir / "report" / "index.html").stat().st_mtime_ns == written
    os.utime(workdir / "runs.jsonl")
    asked = []
    monkeypatch.setattr(reports, "write", lambda *arguments: asked.append(arguments))
    ask(served[0], "/report", "POST")
    assert [arguments[0] for arguments in asked] == [[workdir]]


def test_a_table_that_grows_while_the_report_is_written_makes_it_old(
    served, monkeypatch
):
    _, workdir = served
    asked = []

    def write(workdirs, folder, *_):
        asked.append(workdirs)
        folder.mkdir(exist_ok=True)
        later = time.time_ns() + 10**9
        os.utime(workdir / "runs.jsonl", ns=(later, later))  # grows once it was read
        (folder / "index.html").touch()

    monkeypatch.setattr(reports, "write", write)
    for _ in range(2):
        answer = ask(served[0], "/report", "POST")
        assert answer.status == 303, answer.content
    assert asked == [[workdir]] * 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_address_that_is_none_is_not_found(served, method):
    port = served[0].server_port
    with socket.create_connection(("127.0.0.1", port), 60) as connection:
        request = f"{method} http://[ HTTP/1.0\r\nHost: localhost:{port}\r\n\r\n"
        connection.sendall(request.encode())
        assert b" 404 " in connection.recv(100)


def test_without_a_run_there_is_no_report(tmp_path):
    with server.start(tmp_path / "nothing") as started:
        answer = ask(started, "/report", "POST")
        assert answer.status == 409
        assert b"No report was written" in answer.content
        started.shutdown()


def test_events_come_when_something_changes_alone(served):
    started, workdir = served
    events = Events(started)
    assert events.answer.getheader("Content-Type").startswith("text/event-stream")
    parts = events.until("task-0")
    assert "nothing says how many" in parts["progress"]
    seen = events.until("chips") if "chips" not in parts else parts
    assert "adam" in seen["chips"]
    # Nothing changes: nothing is drawn, nothing is sent.
    before = started.board.wait("", 1).mark
    time.sleep(2.5)
    assert started.board.wait(before, 0) is None
    run, _ = fabricated.one("new", "t", "prodigy", 7, 20, None, False)
    with (workdir / "runs.jsonl").open("a") as file:
        file.write(json.dumps(run) + "\n")
    while "5 runs" not in (parts := events.next()[1]["parts"]).get("progress", ""):
        pass
    assert "task-1" not in parts
    events.close()


def test_a_page_that_comes_back_gets_what_it_lacks(served):
    first = Events(served[0])
    first.until("task-0")
    mark = served[0].board.wait("", 1).mark
    first.close()
    served[0].board.put("mine", "<p>new</p>")
    again = Events(served[0], mark)
    new_mark, news = again.next()
    assert news == {"anew": False, "parts": {"mine": "<p>new</p>"}}
    assert new_mark != mark
    again.close()
    other = Events(served[0], "of-another-server")
    news = other.next()[1]
    assert news["anew"]
    assert {"mine", "progress", "task-0"} <= set(news["parts"])
    other.close()


def test_nothing_is_read_while_nobody_looks(tmp_path):
    workdir = fabricated.write(tmp_path / "study", ("t",), ("adam",), 1)
    with server.start(workdir) as started:
        time.sleep(2.5)
        assert started.board.wait("", 0) is None
        events = Events(started)
        events.until("progress")
        events.close()
        started.shutdown()


def test_boards_wake_who_waits():
    board = Board()
    got = []
    waiting = threading.Thread(target=lambda: got.append(board.wait("", 60)))
    waiting.start()
    board.put("a", "1")
    waiting.join(60)
    assert got[0].parts == {"a": "1"}
    assert board.wait(got[0].mark, 0) is None
    board.put("a", "1")
    assert board.wait(got[0].mark, 0) is None
    board.clear()
    board.put("b", "2")
    news = board.wait(got[0].mark, 0)
    assert (news.anew, news.parts) == (True, {"b": "2"})


# The command


@pytest.mark.parametrize(
    "given",
    [
        ["watch", "runs/x"],
        ["watch", "--workdir=runs/x"],
        ["--mode=watch", "--workdir=runs/x"],
    ],
)
def test_the_directory_may_follow_the_mode(given):
    argv = rewritten(["lrjax", *given, "--port=5"], command._MODE_NAMES)
    assert argv == ["lrjax", "--mode=watch", "--workdir=runs/x", "--port=5"]


def test_what_is_wrong_is_said_in_a_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "race").mkdir()
    (tmp_path / "race" / "race.jsonl").touch()
    cases = {
        (str(tmp_path / "race"),): "lrjax report --from=race:",
        (): "--workdir is missing: lrjax watch --workdir=FOLDER",
        (str(tmp_path / "file"),): "is a file, not a directory of results",
        (str(tmp_path / "file/a/b"),): f"a directory: {tmp_path / 'file'} is a file",
        (str(tmp_path), "more"): "unexpected argument 'more'",
        (str(tmp_path), "--port=65536"): "port",
        ("s3://bucket",): "is an address",
    }
    for arguments, words in cases.items():
        answer = program.invoke("watch", *arguments)
        assert answer.code == 2
        assert len(answer.err) == 1
        assert words in answer.err[0]


def test_a_port_that_is_taken_is_said_in_a_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        answer = program.invoke("watch", tmp_path, f"--port={port}")
    assert answer.code == 2
    assert answer.err == [f"error: --port={port}: Address already in use"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("opened", [False, True], ids=["unseen", "seen"])
def test_a_signal_ends_it_quietly(tmp_path, number, opened):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("signals that are ignored here are ignored by what this starts")
    workdir = fabricated.write(tmp_path / "study", ("t",), ("adam",), 1)
    watching = subprocess.Popen(
        [sys.executable, "main.py", "watch", workdir],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = watching.stdout.readline()
    assert line.startswith(f"watching {workdir}: http://127.0.0.1:")
    if opened:
        port = int(line.split(":")[3].split("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/events")
        connection.getresponse().readline()
    watching.send_signal(number)
    out, err = watching.communicate(timeout=60)
    assert (watching.returncode, out, err) == (0, "", "")


def test_starting_imports_no_jax():
    code = "import sys, lrjax.command, lrjax.watch.server; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert "lrjax.watch.server" in done.stdout.split()
    assert not {"jax", "pandas", "matplotlib"} & set(done.stdout.split())
