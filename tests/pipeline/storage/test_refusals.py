"""Storage that cannot be used is refused soon, in one line with the fix, and without secrets."""

import http.server
import re
import threading

import pytest

from pipeline.errors import InputError
from pipeline.storage.object_store import Bucket, open_storage


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a\0b",
        "s3://",
        "s3:/bucket/x",
        "s3://Bucket/x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "s3://key:hidden@bucket/x",
        "az://bucket/x",
        "https://host/x",
        "file://host/x",
        "file://",
    ],
)
def test_other_uris_are_refused(uri):
    with pytest.raises(InputError, match="must be") as refused:
        open_storage(uri)
    assert "hidden" not in str(refused.value)


ACTS = {
    "write": lambda storage: storage.write("x/y", b""),
    "create": lambda storage: storage.create("x/y", b""),
    "read": lambda storage: storage.read("x"),
    "sizes": lambda storage: storage.sizes("x"),
    "is_empty": lambda storage: storage.is_empty(),
    "refuse_unwritable": lambda storage: storage.refuse_unwritable(),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_file_in_the_way_is_refused(tmp_path, act):
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"which is a file|in the way"):
            act(open_storage(place))
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_a_bucket_that_is_not_there_is_refused(s3, act):
    with pytest.raises(InputError, match=r": NoSuchBucket\. Create the bucket"):
        act(open_storage(f"{s3}-nowhere/x"))


class QuietServer(http.server.ThreadingHTTPServer):
    """HTTP server that logs no error if a client leaves before it is answered."""

    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


class Answers(http.server.BaseHTTPRequestHandler):
    """Request handler that gives the same answer always, once ``ended`` is set."""

    status, body, ended = 403, b"", threading.Event()

    def do_GET(self):
        self.ended.wait(60)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format, *_):
        pass


@pytest.fixture
def answering(monkeypatch):
    """Return a function that starts a server with a fixed answer and returns storage on it."""
    servers = []

    def begin(name, *, hangs=False, **answer):
        ended = threading.Event()
        handler = type("Handler", (Answers,), {"ended": ended} | answer)
        server = QuietServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append((server, ended))
        if not hangs:
            ended.set()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(variable, "AKIAHIDDEN")
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("DQAR_STORAGE_TIMEOUT_S", "1")
        return Bucket(uri=f"s3://{name}/x")

    yield begin
    for server, ended in servers:
        ended.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"])
def test_wrong_credentials_are_refused_without_showing_them(answering, code):
    body = f"<Error><Code>{code}</Code><AWSAccessKeyId>AKIAHIDDEN</AWSAccessKeyId></Error>"
    storage = answering(f"wrong-{code.lower()}", status=403, body=body.encode())
    with pytest.raises(InputError, match=rf": {code}\. \w") as refused:
        storage.read("x")
    assert "AKIA" not in str(refused.value)


def test_a_server_that_fails_or_hangs_is_given_up(answering):
    for storage in (answering("failing", status=500), answering("hanging", hangs=True)):
        with pytest.raises(InputError, match=r"Storage must answer.*AWS_ENDPOINT_URL"):
            storage.read("x")


def test_nobody_listening_and_http_unasked_for_are_refused(monkeypatch, answering):
    storage = answering("plain")
    monkeypatch.setenv("AWS_ALLOW_HTTP", "")
    with pytest.raises(InputError, match=r"AWS_ALLOW_HTTP=true for http"):
        storage.read("x")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://127.0.0.1:9")
    with pytest.raises(InputError, match="Storage must answer"):
        Bucket(uri="s3://nobody/x").read("x")


def test_refusals_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError) as refused:
        open_storage(tmp_path / "file").write("x", b"")
    assert re.fullmatch(r"[^\n]+\.", str(refused.value))
