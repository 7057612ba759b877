"""An S3 server for tests, by moto, as a process of its own: ``python s3_server.py PORT``."""

import sys
import threading
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneCreationAtATime:
    """S3 decides a conditional PUT as one; moto looks first and stores later."""

    def __init__(self, app):
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ.get("HTTP_IF_NONE_MATCH") != "*":
            return self.app(environ, start_response)
        with self.lock:
            return self.app(environ, start_response)


class Held:
    """Parts of uploads below ``/BUCKET/held/`` are not answered: their writer is in the middle."""

    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        is_part = "partNumber=" in environ.get("QUERY_STRING", "")
        if is_part and environ["PATH_INFO"].split("/")[2] == "held":
            time.sleep(600)
        return self.app(environ, start_response)


if __name__ == "__main__":
    app = Held(OneCreationAtATime(DomainDispatcherApplication(create_backend_app)))
    run_simple("127.0.0.1", int(sys.argv[1]), app, threaded=True)
