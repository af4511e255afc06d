"""One browser on the page: it is sent the newest of everything, once it has taken what was sent before.

At most :data:`IN_FLIGHT` messages are on their way to a browser, whatever its speed: it acknowledges each one. One that
acknowledges nothing is disconnected after a while. So no queue grows, neither in this process nor in the kernel, and
what a slow browser shows is late by two messages instead of a full socket buffer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging

from starlette.websockets import WebSocket, WebSocketDisconnect

from runtime.logs import throttled
from runtime.view.feed import NodeFeed
from runtime.view.updates import SensorSwitches, UpdateMaker

_LOG = logging.getLogger("afterimage.view")

UPDATES_PER_S = 15.0
IN_FLIGHT = 2
TAKING_TIMEOUT_S = 15.0
"""A browser that takes no message for this long is disconnected; it connects again if it is still there."""


class Browser:
    """One browser's connection, in both directions."""

    def __init__(
        self, websocket: WebSocket, feed: NodeFeed, updates: UpdateMaker, switches: SensorSwitches | None
    ) -> None:
        """Take over an accepted WebSocket."""
        self._websocket = websocket
        self._feed = feed
        self._updates = updates
        self._switches = switches
        self._in_flight = 0
        self._taken = asyncio.Event()

    async def serve(self) -> None:
        """Send and listen until the browser leaves, sends an unknown message, or takes nothing for too long."""
        with self._feed.watched():
            _LOG.debug("a browser connected, %d are connected", self._feed.watching)
            tasks = [asyncio.create_task(self._send()), asyncio.create_task(self._listen())]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self) -> None:
        """Send the newest state, not more often than a person can see."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                due = loop.time() + 1 / UPDATES_PER_S
                async with asyncio.timeout(TAKING_TIMEOUT_S):
                    while self._in_flight >= IN_FLIGHT:
                        self._taken.clear()
                        await self._taken.wait()
                    # Made after the wait, so that it holds the state of this moment.
                    message = self._updates.update(self._feed.snapshot())
                    self._in_flight += 1
                    await self._websocket.send_bytes(message)
                await asyncio.sleep(max(0.005, due - loop.time()))
        except WebSocketDisconnect:
            pass
        except TimeoutError:
            text = "a browser took no message for %g s and is disconnected"
            _LOG.warning(text, TAKING_TIMEOUT_S, extra=throttled("slow browser"))

    async def _listen(self) -> None:
        """``taken`` acknowledges a message; kill switches are passed on; anything else ends the connection."""
        with contextlib.suppress(WebSocketDisconnect):
            while (received := await self._websocket.receive()).get("text") is not None:
                if received["text"] == "taken" and self._in_flight > 0:
                    self._in_flight -= 1
                    self._taken.set()
                elif (command := read_command(received["text"], self._feed.rig.modality_names)) is None:
                    return
                elif self._switches is not None:
                    action, modality = command
                    switch = self._switches.drop if action == "drop" else self._switches.restore
                    await asyncio.to_thread(switch, modality)


def read_command(text: str, modalities: tuple[str, ...]) -> tuple[str, str] | None:
    """``{"drop": modality}`` or ``{"restore": modality}`` as (action, modality); None for anything else."""
    try:
        command = json.loads(text)
    except json.JSONDecodeError:
        return None
    if not isinstance(command, dict) or len(command) != 1:
        return None
    action, modality = next(iter(command.items()))
    return (action, modality) if action in ("drop", "restore") and modality in modalities else None
