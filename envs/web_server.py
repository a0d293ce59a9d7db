"""The viewer's web server: viser behind a guard.

viser serves everybody who reaches its port: it binds to all addresses unless told otherwise, asks for no password,
takes web sockets from the pages of other sites, and any page may ask it for a public tunnel. Here it is bound to one
address, every HTTP request and every web socket is checked before viser sees it, and tunnels are refused.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator

import viser
import websockets.asyncio.server
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response

from motionlex.data.errors import UserError
from motionlex.envs.web_guard import Guard

logger = logging.getLogger(__name__)
LONGEST_MESSAGE = 262_144
"""Bytes of one message from a browser; more ends its connection."""
STRANGER = "http://stranger.invalid"
"""Whose page the self-test pretends to be; no such site can exist."""
TRIED_PORTS = 50
"""Ports that are tried one after the other."""
_PATCHING = threading.Lock()


class GuardedServer(viser.ViserServer):
    """viser's server without its public tunnel: any browser may ask for one, and it would lead around the guard."""

    def request_share_url(self, verbose: bool = True) -> str | None:
        """Refuse."""
        logger.warning("a browser asked for a public address of the viewer: refused")
        return None

    def stop(self) -> None:
        """Stop serving; what viser says about it stays off stdout, which is for results."""
        with contextlib.redirect_stdout(io.StringIO()):
            super().stop()


def free_port(host: str, port: int) -> int:
    """Return the first port from ``port`` on that can be bound.

    Raises:
        UserError: If the address is not one of this machine's, or no port is free.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"web viewer: {host!r} is no address of this machine: {error}") from error
    for candidate in range(port, min(port + TRIED_PORTS, 65536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address[0], candidate))
            except PermissionError as error:
                raise UserError(f"web viewer: port {port} needs rights that you lack; take one above 1023") from error
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UserError(f"web viewer: {host} is no address of this machine") from error
                reason = error
                continue
            return probe.getsockname()[1]
    raise UserError(f"web viewer: no free port from {port} on at {host}: {reason}")


def open_server(host: str, port: int, guard: Guard) -> GuardedServer:
    """Start the web server behind a guard.

    Args:
        host: Address to bind to.
        port: First port to try.
        guard: Whom to let in.

    Raises:
        UserError: If the address is not ours, no port is free, or the guard turns out not to be asked.
    """
    port = free_port(host, port)
    with _guarding(guard), contextlib.redirect_stdout(io.StringIO()):  # it greets there
        server = GuardedServer(host=host, port=port, label="motionlex", verbose=False)
    if not _refuses_strangers(host, server.get_port()):
        server.stop()
        raise UserError(f"the web viewer cannot be protected with viser {viser.__version__}; install viser==1.1.1")
    return server


@contextlib.contextmanager
def _guarding(guard: Guard) -> Iterator[None]:
    """Put the guard in front of servers that are started meanwhile.

    viser has no setting for this: it calls ``websockets.asyncio.server.serve`` with its own ``process_request``, the
    hook that sees a request before anything is served. That call is intercepted; :func:`open_server` tests the outcome.
    """
    genuine = websockets.asyncio.server.serve

    def serve(*arguments: object, **options: object) -> object:
        ours = {
            "process_request": _asked(guard, options.get("process_request")),
            "max_size": LONGEST_MESSAGE,
            "logger": _quiet_logger(),
        }
        return genuine(*arguments, **{**options, **ours})

    with _PATCHING:
        websockets.asyncio.server.serve = serve
        try:
            yield
        finally:
            websockets.asyncio.server.serve = genuine


def _quiet_logger() -> logging.Logger:
    """Return a logger that leaves out a line for every request."""
    quiet = logging.getLogger(f"{__name__}.requests")
    quiet.setLevel(logging.ERROR)
    quiet.addFilter(_is_worth_telling)
    return quiet


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Tell whether a line is more than that a browser opened a connection to spare."""
    return record.getMessage() != "opening handshake failed"


Process = Callable[[ServerConnection, Request], Response | None]


def _asked(guard: Guard, inner: Process | None) -> Process:
    """Return a ``process_request`` that asks the guard first."""

    def process(connection: ServerConnection, request: Request) -> Response | None:
        answer = guard.check(request.path, request.headers)
        if answer is None:
            response = None if inner is None else inner(connection, request)
        else:
            response = connection.respond(answer.status, answer.text)
            response.headers.update(answer.headers)
        if response is not None:
            response.headers["X-Frame-Options"] = "DENY"  # no other site shows our buttons under its own
            response.headers["Referrer-Policy"] = "no-referrer"
        return response

    return process


def _refuses_strangers(host: str, port: int) -> bool:
    """Ask for the page and for a web socket as a page of another site would, and see both refused."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    upgrade |= {
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Protocol": f"viser-v{viser.__version__}",
    }
    for headers in ({}, upgrade):
        connection = http.client.HTTPConnection({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port, timeout=5)
        try:
            connection.request("GET", "/", headers={**headers, "Origin": STRANGER})
            if connection.getresponse().status != 403:
                return False
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
    return True
