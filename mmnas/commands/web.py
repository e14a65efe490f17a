"""`python -m mmnas web`: a page in the browser that answers questions about images."""

import argparse
from typing import Any

from mmnas.errors import ConfigError


def add(commands: Any) -> None:
    """Add the command to the parser of `python -m mmnas`."""
    parser = commands.add_parser("web", help="ask models about images, on a page in the browser")
    parser.description = "Serve a page on this machine alone, with a tab for each checkpoint. Ctrl-C ends it."
    help_ = "trained or exported model; may be repeated"
    parser.add_argument("--ckpt", action="append", required=True, metavar="FILE", help=help_)
    parser.add_argument("--detector", required=True, metavar="FILE", help="the detector's weights, in any layout")
    parser.add_argument(
        "--cache", metavar="DIR", help="where features of images are kept (default: ~/.cache/mmnas)"
    )
    parser.add_argument("--device", default="cpu", help="such as cuda (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="0 takes a free one (default: %(default)s)")
    parser.set_defaults(run=web)


def web(options: argparse.Namespace) -> int:
    """Serve until interrupted."""
    from mmnas.detector.extraction import parse_devices  # slow to import
    from mmnas.predict.loaded import load
    from mmnas.predict.web import HOST, Server

    if not 0 <= options.port < 1 << 16:
        raise ConfigError(f"--port={options.port} must be from 0 to 65535")
    parse_devices(options.device)
    models = [load(path, options.detector, options.device, cache=options.cache) for path in options.ckpt]
    with Server(options.port, models) as server:
        print(f"http://{HOST}:{server.server_port}/ (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    return 0
