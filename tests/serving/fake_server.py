"""A server that starts at once: /health, a child of its own as vLLM has, and ways to go wrong.

python fake_server.py MODE FOLDER ... --port PORT ...
"""

import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def main():
    mode, folder = sys.argv[1], Path(sys.argv[2])
    port = int(sys.argv[sys.argv.index("--port") + 1])
    if mode == "fail":
        print("loading\nValueError: the model is broken\nRuntimeError: engine failed, see above", flush=True)
        sys.exit(3)
    if mode == "port-taken-once" and not (folder / "tried").exists():
        (folder / "tried").touch()
        print("OSError: [Errno 98] Address already in use", flush=True)
        sys.exit(1)
    subprocess.Popen(["sleep", "600"])  # stays when this process is killed, as EngineCore does
    (folder / "started").touch()
    if mode == "never-ready":
        time.sleep(600)
    HTTPServer(("127.0.0.1", port), Handler).serve_forever()


main()
