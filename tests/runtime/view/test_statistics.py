"""The node's statistics on the wire: told while somebody listens, bounded, and read by the client."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import msgpack
import pytest
from published import MS, statistics

from engines.opening import open_session
from runtime.client import Client
from runtime.core.health import State
from runtime.node.node import Node
from runtime.rig import load_rig
from runtime.transport.endpoints import Endpoints
from runtime.wire import Decision, Limits, Reason, Statistics, WireError, decode_output, encode_output


def test_statistics_survive_the_wire() -> None:
    message = statistics(5 * MS)
    topic, header, payload = encode_output(message)
    assert (topic, payload) == (b"statistics", b"")
    assert decode_output([topic, header, payload]) == message


@pytest.mark.parametrize("key", ["rig", "bundle", "at_ns", "values", "version"])
def test_statistics_without_a_key_are_refused(key: str) -> None:
    topic, header, payload = encode_output(statistics(0))
    spoiled = {k: v for k, v in msgpack.unpackb(bytes(header)).items() if k != key}
    with pytest.raises(WireError):
        decode_output([topic, msgpack.packb(spoiled), payload])


def test_the_worst_a_large_rig_can_count_fits_into_a_message() -> None:
    names = [f"modality-{i}" for i in range(16)]
    big = 2**40
    counters = {
        "received": big,
        "used": big,
        "pending": big,
        "dropped": {r.value: big for r in Reason},
        "unaccounted": 0,
        "lost": big,
        "restarts": big,
        "windows": {"encoded": big, "superseded": big, "corrupt": big},
    }
    stages = [f"{kind}_{m}" for kind in ("encode", "observe") for m in names]
    message = statistics(
        0,
        messages=counters | {"modalities": dict.fromkeys(names, counters), "unattributed": counters},
        latency_ms={key: {f"p{i}": 1.5 for i in range(6)} for key in [*stages, "fuse", "tick"]},
        errors={key: {"count": big, "last": "x" * 500} for key in [*stages, "fuse"]},
        published={f"{s}/{m}": big for s in ("best", "imputed") for m in names},
    )
    parts = encode_output(message)
    assert memoryview(parts[1]).nbytes < Limits(header_bytes=64 * 1024).header_bytes
    assert decode_output(parts) == message


def test_a_node_tells_its_statistics_while_somebody_listens(tiny_bundle: Path) -> None:
    rig = load_rig("commands-4")
    stop = threading.Event()
    # Not tmp_path: its length would not fit into the address of a Unix socket.
    with tempfile.TemporaryDirectory(prefix="ai-") as folder, open_session(tiny_bundle) as session:
        endpoints = Endpoints(f"ipc://{folder}/frames", f"ipc://{folder}/decisions")
        with (
            Node(rig, session, endpoints) as node,
            Client(rig, ("fused",), endpoint=endpoints.decisions) as client,
        ):
            running = threading.Thread(target=node.run, args=(stop,))
            running.start()
            try:
                # Nobody listens: a second and a half of decisions, and nothing else.
                before = [client.receive(5) for _ in range(30)]
                client.subscribe("statistics")
                told = [m for m in (client.receive(5) for _ in range(80)) if isinstance(m, Statistics)]
                client.unsubscribe("statistics")
                while isinstance(client.receive(5), Statistics):
                    pass
            finally:
                stop.set()
                running.join(10)
    assert {type(m) for m in before} == {Decision}
    assert len(told) >= 2
    first, last = told[0], told[-1]
    assert first.bundle == session.bundle_hash
    assert last.at_ns - first.at_ns >= (len(told) - 1) * 10**9
    assert last.values["messages"]["ticks"]["published"] > first.values["messages"]["ticks"]["published"]
    assert last.values["messages"]["unaccounted"] == 0
    assert last.values["latency_ms"]["fuse"]["p99"] > 0
    assert 0 < last.values["cpu_seconds"] < last.values["seconds"]
    assert set(last.values["messages"]["modalities"]) == set(rig.modality_names)


def test_a_client_leaves_topics_out_again() -> None:
    with Client("commands-4", ("fused",), endpoint="ipc:///nonexistent/decisions") as client:
        client.subscribe("best/", "imputed/rgb", "fused")
        client.unsubscribe("best/", "statistics")
        with pytest.raises(ValueError, match=r"is not one of fused, health, .*statistics"):
            client.subscribe("nothing")


def test_every_state_of_the_core_has_a_colour_and_a_place_in_the_legend() -> None:
    static = Path(__file__).parents[3] / "runtime" / "view" / "static"
    css, charts = (static / "page.css").read_text(), (static / "charts.js").read_text()
    for state in State:
        assert css.count(f"--{state.value}:") == 2, "light and dark"
        assert f'"{state.value}"' in charts
