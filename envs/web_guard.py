"""Who may open the page: rules on requests, by nothing but their path and headers."""

from __future__ import annotations

import hashlib
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable
from urllib.parse import parse_qs, urlsplit

SCHEMES = ("http", "https")


def is_loopback(host: str) -> bool:
    """Tell whether an address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@runtime_checkable
class Fields(Protocol):
    """Headers of a request, in which a name may be repeated."""

    def get_all(self, key: str) -> list[str]:
        """Return every value of a name."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is said instead of the page."""

    status: int
    """HTTP status."""
    text: str
    """Body, plain text; nothing of the request is repeated in it."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """More headers."""


class Guard:
    """Decides on requests by their path and headers alone."""

    def __init__(self, token: str | None) -> None:
        """Choose the rule.

        Args:
            token: What a browser must give once in the address (``/?token=...``) and from then on by cookie; None lets
                every browser in that calls the server by a name of this machine's own.
        """
        self._token = token
        self._cookie = "" if token is None else "motionlex_" + hashlib.sha256(token.encode()).hexdigest()[:12]

    def check(self, path: str, headers: Fields) -> Answer | None:
        """Return the answer to a request that gets nothing else; None lets it pass.

        A ``Host`` that is not this machine's means that a foreign site pretends to be us (DNS rebinding), a foreign
        ``Origin`` that a page of another site sent the request.
        """
        host = _only(headers, "Host")
        if self._token is None and not is_loopback(_name(host)):
            return Answer(status=403, text="Open this page as http://127.0.0.1:PORT/ or http://localhost:PORT/.\n")
        origin = _only(headers, "Origin")
        if headers.get_all("Origin") and origin.lower() not in (f"{scheme}://{host}".lower() for scheme in SCHEMES):
            return Answer(status=403, text="Pages of other sites may not talk to this one.\n")
        if self._token is None:
            return None
        given = parse_qs(path.partition("?")[2]).get("token", [])
        if len(given) == 1 and self._matches(given[0]):
            cookie = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Lax"
            return Answer(status=303, text="Welcome.\n", headers={"Location": "/", "Set-Cookie": cookie})
        if self._matches(_cookie(headers, self._cookie)):
            return None
        return Answer(status=401, text="An access token is needed: open the address that motionlex printed.\n")

    def _matches(self, given: str) -> bool:
        return self._token is not None and secrets.compare_digest(given.encode(errors="replace"), self._token.encode())


def _only(headers: Fields, name: str) -> str:
    """Return the value of a header that must not be repeated; empty if it is missing or repeated."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else ""


def _name(host: str) -> str:
    """Return the host of ``host:port``; empty if it cannot be read."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _cookie(headers: Fields, name: str) -> str:
    """Return a cookie, whatever other programs of this machine may have set beside it; empty if there is none."""
    parts = (part.strip().partition("=") for part in _only(headers, "Cookie").split(";"))
    return next((value for key, _, value in parts if key == name), "")
