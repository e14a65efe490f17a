"""`mmnas web`: a page for this machine's browser that asks models about an image. It needs no other host.

The page sends the image with every question, and nothing is kept but the cache of features. What other sites ask,
also those whose name leads to this machine, is refused.
"""

import contextlib
import importlib.resources
import io
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from PIL import Image

from mmnas.detector.images import read_image
from mmnas.errors import DataError, MMNasError, one_line
from mmnas.predict.loaded import LoadedModel
from mmnas.predict.outputs import READERS
from mmnas.predict.predictions import Failure, Prediction

HOST = "127.0.0.1"
MOST_TEXTS, LARGEST = 20, 1 << 26
"""Texts about an image, and its bytes."""


class Server(ThreadingHTTPServer):
    """Serves the page, with a tab for each model, at a port of this machine alone."""

    daemon_threads = True

    def __init__(self, port: int, models: Sequence[LoadedModel]) -> None:
        super().__init__((HOST, port), _Handler)
        self.models, self.lock = {str(number): model for number, model in enumerate(models)}, Lock()
        tabs = [(f"{each.config.version} ({each.task.name})", READERS[each.task.name][0].key) for each in models]
        page = importlib.resources.files("mmnas.predict").joinpath("page.html").read_bytes()
        self.page = page.replace(b"$models", json.dumps(tabs).encode())

    def answers(self, query: Mapping[str, str], content: bytes) -> list[dict[str, Any]]:
        """Return for each text, one on a line, what is said and a picture; or what is wrong, in one line."""
        texts = [text.strip() for text in query.get("texts", "").splitlines() if text.strip()][:MOST_TEXTS]
        try:
            image, model = _decoded(content), self.models[query.get("tab", "0")]
            image.filename = query.get("name", "image")  # type: ignore[attr-defined]  # as an opened one has
            with self.lock:  # one at a time, for the detector takes all cores
                return [_shown(each, image) for each in model.predict_each([(image, text) for text in texts])]
        except (MMNasError, OSError, MemoryError, RuntimeError) as exception:
            return [{"error": one_line(exception)}]


class _Handler(BaseHTTPRequestHandler):
    server: Server
    timeout = 60

    def parse_request(self) -> bool:
        """Refuse what the page of this server does not ask."""
        if not super().parse_request():
            return False
        host = self.headers.get("Host", "").partition(":")[0]
        if host in (HOST, "localhost") and self.headers.get("Sec-Fetch-Site", "none") in ("none", "same-origin"):
            return True
        self.send_error(403)
        return False

    def do_GET(self) -> None:  # noqa: N802, the name is that of http.server
        self._send(self.server.page, "text/html") if self.path == "/" else self.send_error(404)

    def do_POST(self) -> None:  # noqa: N802
        size, query = self.headers.get("Content-Length", ""), dict(parse_qsl(urlsplit(self.path).query))
        if not (size.isdecimal() and len(size) < 9 and int(size) <= LARGEST):
            self.send_error(413)
        elif query.get("tab", "0") not in self.server.models:
            self.send_error(404)
        else:
            said = self.server.answers(query, self.rfile.read(int(size)))
            self._send(json.dumps(said).encode(), "application/json")

    def _send(self, content: bytes, kind: str) -> None:
        with contextlib.suppress(ConnectionError):  # the page was left meanwhile
            self.send_response(200)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing: requests hold what was asked."""


def _decoded(content: bytes) -> Image.Image:
    """Return an upload, upright and in color. Raises `DataError` unless it is an image."""
    with NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            return Image.fromarray(read_image(file.name)[..., ::-1])
        except DataError as exception:
            raise DataError(str(exception).replace(file.name, "the image")) from None


def _shown(result: Prediction | Failure, image: Image.Image) -> dict[str, Any]:
    if isinstance(result, Failure):
        return {"error": f"{result.text}: {result.reason}"}
    stream = io.BytesIO()
    result.draw(image).save(stream, "PNG")
    picture = f"data:image/png;base64,{b64encode(stream.getvalue()).decode()}"
    return {"picture": picture, "said": result.record()}
