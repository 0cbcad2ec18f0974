"""Checks every request first: where its page comes from, and how many requests its address sends."""

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Mapping
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

ADDRESSES = 1024  # number of addresses whose rates are remembered
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


class Guard:
    """Refuses requests that another site's page sends through a person's browser, and too many requests."""

    def __init__(self, app: ASGIApp, host: str, rate: float, burst: int) -> None:
        """Takes the app, the host that it is bound to, and the limits for one address.

        Args:
            app: the app to guard.
            host: the only name, besides addresses and localhost, by which a browser may call this server. A site whose
                own name leads here (DNS rebinding) sends another name.
            rate: the requests per second that an address may send in the long run.
            burst: the requests that an address may send at once.
        """
        self._app, self._host, self._rate, self._burst = app, host, rate, burst
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # requests left, and the time of that count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuses a request, or passes it on to the app."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                safe = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *(x for x in safe if x[0] not in known)]
            await send(message)

        if scope["type"] != "http":
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        if not self._is_own(headers.get(b"host", "")):
            sentence = (
                "The Host of this request is not a name of this server: open the address that the server printed."
            )
            await refused(403, sentence)(scope, receive, send_safely)
        elif headers.get(b"origin", "http://" + headers[b"host"]) != "http://" + headers[b"host"]:
            await refused(403, "This request comes from another site's page.")(scope, receive, send_safely)
        elif not self._has_left(scope["client"][0] if scope["client"] else ""):
            await refused(429, "There are too many requests: wait a second.")(scope, receive, send_safely)
        else:
            await self._app(scope, receive, send_safely)

    def _is_own(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", self._host.lower()) or _is_address(name)

    def _has_left(self, address: str) -> bool:
        now = time.monotonic()
        left, then = self._left.pop(address, (float(self._burst), now))
        left = min(self._burst, left + (now - then) * self._rate)
        self._left[address] = (max(left - 1, 0.0), now)
        if len(self._left) > ADDRESSES:
            self._left.popitem(last=False)
        return left >= 1


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def refused(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Returns the answer to a request that is refused: {"error": sentence}."""
    again = {"Retry-After": "1"} if status in (429, 503) else {}
    return JSONResponse({"error": sentence}, status, {**(headers or {}), **again})
