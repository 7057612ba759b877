"""S3 server of moto for tests, in a separate process: ``python s3_server.py PORT``."""

import sys
import threading
import time

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple


class OneCreationAtATime:
    """Lock around conditional PUTs, which are atomic in S3 but not in moto."""

    def __init__(self, app):
        self.app = app
        self.lock = threading.Lock()

    def __call__(self, environ, start_response):
        if environ.get("HTTP_IF_NONE_MATCH") != "*":
            return self.app(environ, start_response)
        with self.lock:
            return self.app(environ, start_response)


class Held:
    """Delay of upload parts below ``/BUCKET/held/``, so that their writer stays in mid-upload."""

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
