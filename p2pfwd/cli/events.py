"""`events`: what happened, a line each, from the daemon's history and as it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from p2pfwd.cli.env import answer
from p2pfwd.cli.event_words import event_line
from p2pfwd.cli.exits import warn
from p2pfwd.cli.foreground import terminable
from p2pfwd.cli.render import talk, write, write_json
from p2pfwd.cli.since import parse_since
from p2pfwd.errors import ConnectionLost, DaemonNotRunning, TimedOut
from p2pfwd.history.kinds import TOPICS
from p2pfwd.rpc import codec
from p2pfwd.rpc.event_values import MAX_LIMIT
from p2pfwd.rpc.schema import EventsParams, EventsResult, HistoryEvent

if TYPE_CHECKING:
    from p2pfwd.cli.env import Env
    from p2pfwd.rpc.client import Client

DAY = "24h"
LOOK_S = 0.5
"""How often a follower looks whether the daemon is back."""


def events(
    ctx: typer.Context,
    since: Annotated[
        str,
        typer.Option("--since", metavar="T", help="2h, 30m, yesterday, 02:00, an ISO time, or a unix time."),
    ] = DAY,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on with what happens, until interrupted.")
    ] = False,
    of_peer: Annotated[str | None, typer.Option("--peer", metavar="PEER", help="Of this peer alone.")] = None,
    of_protocol: Annotated[
        str | None, typer.Option("-p", "--protocol", metavar="P", help="Of this protocol name alone.")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            "--kind",
            metavar="KIND",
            help=f"Of this topic ({', '.join(TOPICS)}), or with this code; may be repeated.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line.")] = False,
) -> None:
    """Show what happened: peers, streams, tunnels, access, relays, the network, the daemon.

    Of the last 24 hours, unless --since says otherwise; it is kept over restarts of the daemon.
    """
    env: Env = ctx.obj
    wanted = EventsParams(
        since=parse_since(since, time.time()),
        peer=of_peer,
        protocol=of_protocol,
        kinds=tuple(kind or ()),
        limit=MAX_LIMIT,
    )
    if not follow:
        with env.connect() as client:
            _Shown(wanted, as_json).catch_up(client)
        return
    with terminable() as interrupted:
        _follow(env, _Shown(wanted, as_json), interrupted)


class _Shown:
    """What one command has shown so far."""

    def __init__(self, wanted: EventsParams, as_json: bool) -> None:
        self.wanted = wanted
        self._as_json = as_json
        self._last_id: int | None = None
        self._counts: dict[int, int] = {}
        self._failure: str | None = None
        self._peer: str | None = None

    def catch_up(self, client: Client) -> None:
        """Show what there is beyond that."""
        found = answer(client, "events.ls", self._from_here(), EventsResult)
        if self._last_id is not None and found.last_id < self._last_id:  # the history was begun anew
            self._last_id = None
            self._counts.clear()
            found = answer(client, "events.ls", self._from_here(), EventsResult)
        if not found.complete:
            warn(
                f"only the newest {MAX_LIMIT} events are shown",
                "ask for less: a later --since, --kind, --peer",
            )
        if found.failure is not None and found.failure != self._failure:
            warn(found.failure, found.hint)
        self._failure, self._peer = found.failure, found.peer
        for event in found.events:
            self.show(event)

    def _from_here(self) -> EventsParams:
        params = {name: getattr(self.wanted, name) for name in EventsParams.__match_args__}
        return EventsParams(**{**params, "after": self._last_id})

    def show_live(self, event: HistoryEvent) -> None:
        """Show it if it is one of those that are wanted."""
        wanted = self.wanted
        if (
            self._peer in (None, event.peer)
            and wanted.protocol in (None, event.protocol)
            and (not wanted.kinds or {event.code, event.topic} & set(wanted.kinds))
        ):
            self.show(event)

    def show(self, event: HistoryEvent) -> None:
        """Show it, unless it was shown with this count already."""
        if event.count <= self._counts.get(event.id, 0):
            return
        self._counts[event.id] = event.count
        while len(self._counts) > MAX_LIMIT:
            del self._counts[next(iter(self._counts))]
        self._last_id = max(event.id, self._last_id or 0)
        if self._as_json:
            write_json(event, line=True)
        else:
            write(event_line(event))


def _follow(env: Env, shown: _Shown, interrupted: int) -> None:
    """Until interrupted; a daemon that stops is waited for."""
    client = env.connect()
    while True:
        try:
            with client:
                client.interrupt_on(interrupted)
                _show_live(env, client, shown)
        except (ConnectionLost, DaemonNotRunning):
            talk("The daemon stopped; this goes on when it is back.")
        client = _reconnected(env)
        talk("The daemon is back.")


def _show_live(env: Env, client: Client, shown: _Shown) -> None:
    live = client.subscribe(("events",))  # before the past is read: nothing falls between
    shown.catch_up(client)
    if env.talkative:
        talk("Following the events; Ctrl-C ends this.")
    for event in live:
        found = _event(event.data)
        if found is None:  # some were dropped, for this command was too slow: the history has them
            shown.catch_up(client)
        else:
            shown.show_live(found)


def _reconnected(env: Env) -> Client:
    while True:
        time.sleep(LOOK_S)
        try:
            return env.connect()
        except (DaemonNotRunning, ConnectionLost, TimedOut):
            continue  # it is not back, or not ready, yet


def _event(data: dict[str, Any]) -> HistoryEvent | None:
    return None if "action" in data else codec.result_from_json(HistoryEvent, data, "events")
