"""Bounds connections that are not, or not yet, streams: their number and how long they may live."""

import asyncio
from collections import OrderedDict

from aiohttp import web

__all__ = ["Gate"]

_N_YOUNG = 128
_YOUNG_S = 10.0


class Gate:
    """Makes the protocol object of each connection.

    One that has not become a stream after 10 s is cut; so is the oldest of them when 128 newer ones
    have come. Silent connections thus neither keep others out nor use up file descriptors.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._young: OrderedDict[web.RequestHandler, asyncio.TimerHandle] = OrderedDict()

    def __call__(self) -> web.RequestHandler:
        """For `loop.create_server`."""
        if len(self._young) >= _N_YOUNG:
            self._cut(next(iter(self._young)))
        handler = self._server()
        timer = asyncio.get_running_loop().call_later(_YOUNG_S, self._cut, handler)
        self._young[handler] = timer
        return handler

    def keep(self, handler: web.RequestHandler) -> None:
        """It is a stream now: it may stay."""
        if timer := self._young.pop(handler, None):
            timer.cancel()

    def close(self) -> None:
        """Forget them."""
        for timer in self._young.values():
            timer.cancel()
        self._young.clear()

    def _cut(self, handler: web.RequestHandler) -> None:
        self.keep(handler)
        if handler.transport is not None:
            handler.transport.abort()
