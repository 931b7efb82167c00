"""A connection whose requests must have their head there in time; uvicorn alone waits for it for ever."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD = 10.0
"""Seconds from the connection, or the first byte of a further request, to the end of the request's head."""


class Connection(H11Protocol):
    late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unwatch()

    def _watch(self) -> None:
        """Until there is a request that has not been answered."""
        if self.cycle is not None and not self.cycle.response_complete:
            self._unwatch()
        elif self.late is None:
            self.late = self.loop.call_later(HEAD, self.transport.close)

    def _unwatch(self) -> None:
        if self.late is not None:
            self.late.cancel()
            self.late = None
