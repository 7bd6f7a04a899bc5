"""TLS before a plain server, as a reverse proxy is."""

import contextlib
import socket
import ssl
import threading

import trustme


class TlsFront:
    """Counts its connections; ``version`` pins the one version of TLS that it speaks."""

    def __init__(self, port, folder, version=None):
        authority = trustme.CA()
        self.roots = folder / "roots.pem"
        authority.cert_pem.write_to_path(self.roots)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version is not None:
            self._context.minimum_version = self._context.maximum_version = version
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._behind, self.connections = port, 0

    def __enter__(self):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _serve(self):
        while True:
            try:
                front = self._context.wrap_socket(self._listener.accept()[0], server_side=True)
            except ssl.SSLError:
                continue
            except OSError:
                return
            self.connections += 1
            back = socket.create_connection(("127.0.0.1", self._behind))
            for source, sink in ((front, back), (back, front)):
                threading.Thread(target=self._pipe, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pipe(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
