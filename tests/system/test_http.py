"""HTTP over TCP: what it permits to whom, and what it says of how famezd is."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from urllib.parse import urlsplit

import bcrypt
import pytest
import yaml

from tests.certificate import make_certificate
from tests.daemon import BIN, PATIENCE, Famezd, eventually

LAB = {"personality": "genz", "peers": 4, "vectors": 16}
BROKEN = {"peers": 2, "vectors": 2}
PASSWORD = "correct horse: battery"


@pytest.fixture
def famezd(tmp_path: Path) -> Iterator[Famezd]:
    with Famezd(tmp_path, {"lab": LAB}) as famezd:
        yield famezd


def ask(url: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Message]:
    """Status, text and headers of an answer; `headers` with _ for -."""
    asked = urllib.request.Request(f"{url}{path}", method=method)
    for name, value in headers.items():
        asked.add_header(name.replace("_", "-"), value)
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            return int(answer.status), str(answer.read(), "utf-8"), answer.headers
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode(), e.headers


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# How famezd is


def test_all_tell_the_same_of_a_fabric_that_does_not_serve(tmp_path: Path) -> None:
    famezd = Famezd(tmp_path, {"lab": LAB})
    with famezd:
        assert ask(famezd.url, "/healthz")[:2] == (200, "ok\n")
        assert ask(famezd.url, "/readyz")[:2] == (200, "ok\n")
        # Something stands where its mailbox is to be, so it cannot be served.
        (tmp_path / "plain-mailbox").mkdir()
        broken = BROKEN | {"mailbox": {"backing": "file", "path": str(tmp_path / "plain-mailbox")}}
        (tmp_path / "fabrics.d" / "plain.yaml").write_text(yaml.safe_dump(broken))
        assert famezd.ctl("reload").returncode == 3
        assert ask(famezd.url, "/healthz")[:2] == (200, "ok\n")
        status, text, _ = ask(famezd.url, "/readyz")
        assert (status, text.startswith("fabric plain: failed: cannot ")) == (503, True)
        assert ask(famezd.url, "/readyz", "HEAD")[:2] == (503, "")
        done = famezd.ctl("--json", "status")
        assert done.returncode == 3
        unready = json.loads(done.stdout)["unready"]
        assert [f"fabric {name}: {why}\n" for name, why in unready.items()] == [text]
        (tmp_path / "fabrics.d" / "plain.yaml").unlink()
        assert famezd.ctl("reload").returncode == 0
        assert ask(famezd.url, "/readyz")[:2] == (200, "ok\n")
        assert famezd.ctl("status").returncode == 0


def test_a_worker_that_dies_again_and_again_makes_it_unready_until_it_serves(famezd: Famezd) -> None:
    def kill() -> bool:
        fabric = json.loads(famezd.ctl("--json", "status").stdout)["fabrics"][0]
        if fabric["pid"]:
            os.kill(fabric["pid"], signal.SIGKILL)
        return bool(fabric["failure"])

    eventually(kill, "it has died too often")
    status, text, _ = ask(famezd.url, "/readyz")
    assert status == 200 or "its worker died" in text
    eventually(lambda: ask(famezd.url, "/readyz")[0] == 200, "it serves again")


# What is permitted

CHANGING = [
    "/api/v1/reload",
    "/api/v1/fabrics/lab/restart",
    "/api/v1/fabrics/lab/peers/1/kick",
    "/api/v1/fabrics/lab/faults",
    "/api/v1/fabrics/lab/faults/clear",
    "/api/v1/fabrics/lab/faults/1/clear",
]


def test_nothing_is_changed_over_tcp(famezd: Famezd) -> None:
    for path in [*CHANGING, "/metrics", "/healthz", "/nowhere"]:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            status, _, headers = ask(famezd.url, path, method)
            assert (status, headers["Allow"]) == (405, "GET,HEAD"), (path, method)
    for path in [path for path in CHANGING if path != "/api/v1/fabrics/lab/faults"]:
        assert ask(famezd.url, path)[0] == 404
    # What stands in the files is for who may use famezctl.
    assert [ask(famezd.url, f"/api/v1/{what}")[0] for what in ("check", "diff")] == [404, 404]


def test_what_is_answered_is_not_for_other_pages(famezd: Famezd) -> None:
    for path in ("/healthz", "/api/v1/status", "/metrics", "/nowhere"):
        headers = ask(famezd.url, path)[2]
        policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Server"] == "famezd"


OURS = [
    "localhost",
    "LOCALHOST.:9991",
    "127.0.0.1:1",
    "[::1]:9991",
    "[::1]",
    "192.0.2.7:80",
    "fabrics.example.org:9991",
]
OTHERS = ["evil.example.org", "localhost.evil.example.org", "127.0.0.1.evil.example.org:9991", "", ":9991", "1.2.3"]
OTHERS += ["localhost:80, evil.example.org", "127.0.0.1:evil.example.org"]


def test_the_host_has_to_be_ours(tmp_path: Path) -> None:
    listen = {"listen": "127.0.0.1:0", "hosts": ["Fabrics.Example.org"]}
    with Famezd(tmp_path, {"lab": LAB}, http=listen) as famezd:
        for host in OURS + OTHERS:
            assert ask(famezd.url, "/healthz", Host=host)[0] == (200 if host in OURS else 421), host
        # famezctl does not come by TCP.
        assert famezd.ctl("status").returncode == 0


def test_who_names_no_host_is_no_browser(famezd: Famezd) -> None:
    host, port = urlsplit(famezd.url).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client, client.makefile("rb") as answer:
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert answer.readline() == b"HTTP/1.0 200 OK\r\n"


NO_HTTP = [
    b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"no\x00thing\r\n\r\n",
]


def test_what_is_no_http_is_answered_and_fills_no_log(famezd: Famezd) -> None:
    host, port = urlsplit(famezd.url).netloc.split(":")
    for request in NO_HTTP:
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as client, client.makefile("rb") as answer:
            client.sendall(request)
            assert answer.readline() == b"HTTP/1.0 400 Bad Request\r\n"
    log = famezd.log.read_text()
    assert "famezd is ready" in log
    assert "rror handling request" not in log
    assert "Traceback" not in log


# Users, and HTTPS


def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


def test_users_have_to_say_who_they_are(tmp_path: Path) -> None:
    users = {"alice": hashed(PASSWORD), "bob": hashed("x" * 72)}
    with Famezd(tmp_path, {"lab": LAB}, http={"listen": "127.0.0.1:0", "users": users}) as famezd:
        for path in ("/", "/metrics", "/healthz", "/readyz", "/api/v1/status", "/nowhere"):
            status, _, headers = ask(famezd.url, path)
            assert (status, headers["WWW-Authenticate"]) == (401, 'Basic realm="famezd", charset="UTF-8"')
        for _ in range(2):  # verified, and then known
            assert ask(famezd.url, "/metrics", Authorization=basic("alice", PASSWORD))[0] == 200
        # bcrypt looks at 72 bytes, as for Prometheus.
        assert ask(famezd.url, "/metrics", Authorization=basic("bob", "x" * 100))[0] == 200
        for wrong in (
            "Basic",
            "Basic ?",
            "Bearer x",
            basic("alice", "x"),
            basic("eve", PASSWORD),
            basic("", ""),
            basic("alice", "\0"),
        ):
            assert ask(famezd.url, "/metrics", Authorization=wrong)[0] == 401
        log = famezd.log.read_text()
        assert "Traceback" not in log
        # All of them were within a minute.
        assert log.count("wrong user or password") == 1
        assert "address=127.0.0.1 attempts=1" in log
        # Another password is in force with the reload, and the one before is not known any more.
        users["alice"] = hashed("another")
        famezd.config.write_text(yaml.safe_dump({"http": {"listen": "127.0.0.1:0", "users": users}}))
        assert famezd.ctl("reload").returncode == 0
        assert ask(famezd.url, "/metrics", Authorization=basic("alice", PASSWORD))[0] == 401
        assert ask(famezd.url, "/metrics", Authorization=basic("alice", "another"))[0] == 200
        assert PASSWORD not in famezd.log.read_text()


def test_https_with_a_certificate_that_is_renewed(tmp_path: Path) -> None:
    tls = make_certificate(tmp_path)
    settings = {"listen": "127.0.0.1:0", "tls": {"cert": str(tls.cert), "key": str(tls.key)}}
    with Famezd(tmp_path, {"lab": LAB}, http=settings) as famezd:
        url = famezd.url
        assert url.startswith("https://127.0.0.1:")

        def trusted() -> bool:
            context = ssl.create_default_context(cafile=tls.cert)
            try:
                with urllib.request.urlopen(f"{url}/healthz", timeout=PATIENCE, context=context) as answer:
                    return bool(answer.status == 200)
            except urllib.error.URLError as e:
                if not isinstance(e.reason, ssl.SSLCertVerificationError):
                    raise
                return False

        assert trusted()
        make_certificate(tmp_path)
        assert not trusted()
        assert famezd.ctl("reload").returncode == 0
        assert trusted()
        # What would change can be asked.
        changed = {**settings, "listen": f"127.0.0.1:{urlsplit(url).port}", "tls": None}
        famezd.config.write_text(yaml.safe_dump({"http": changed}))
        assert "http.tls" in famezd.ctl("diff").stdout
        famezd.config.write_text(yaml.safe_dump({"http": settings}))
        # One that is none changes nothing.
        tls.key.write_text("no key")
        done = famezd.ctl("reload")
        assert (done.returncode, "http.tls.cert" in done.stderr) == (1, True)
        assert trusted()


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [
        ({}, False),
        ({"allow_remote": True}, True),
        ({"users": {"alice": hashed("x")}}, False),
        ({"users": {"alice": hashed("x")}, "tls": {}}, True),
    ],
)
def test_other_machines_are_served_only_where_that_was_meant(
    tmp_path: Path, settings: dict[str, object], allowed: bool
) -> None:
    if "tls" in settings:
        tls = make_certificate(tmp_path)
        settings = settings | {"tls": {"cert": str(tls.cert), "key": str(tls.key)}}
    (tmp_path / "fabrics.d").mkdir()
    config = tmp_path / "famezd.yaml"
    for host in ("0.0.0.0", "[::]", "192.0.2.1", "fabrics.example.org"):
        config.write_text(yaml.safe_dump({"http": {"listen": f"{host}:9991", **settings}}))
        done = subprocess.run(
            [BIN / "famezd", "--check", "-c", config], capture_output=True, text=True, check=False, timeout=PATIENCE
        )
        assert (done.returncode == 0) == allowed, done.stderr
        assert allowed or f"famezd.yaml:2:11: http.listen: {host}:9991 may be reached by other machines:" in done.stderr
