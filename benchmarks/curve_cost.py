"""What CURVE costs: the same frames over TCP on 127.0.0.1, plain and encrypted, between two processes.

Plain and encrypted rounds take turns, so that whatever else the machine does falls on both. Latency is from before the
frame is encoded to after it was received, on the clock that both processes share; CPU time is of all threads of both
processes, waiting for the next frame included.
Usage: python benchmarks/curve_cost.py [--messages 100] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import msgpack
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from runtime.transport.allow_list import AllowedKey, AllowList, write_allow_list
from runtime.transport.keys import ALLOW_LIST_NAME, Keys, load_keys, new_keys
from runtime.transport.sockets import FrameReceiver, FrameSender
from runtime.wire import Clock, encode_frame

FRAMES: dict[str, tuple[tuple[int, ...], str, float]] = {
    "EEG, 8 samples of 8 channels": ((8, 8), "float32", 32.0),
    "audio, 20 ms at 16 kHz": ((320,), "int16", 50.0),
    "depth 64 x 64": ((1, 64, 64), "uint16", 30.0),
    "RGB 64 x 64": ((1, 64, 64, 3), "uint8", 30.0),
    "RGB 640 x 480": ((1, 480, 640, 3), "uint8", 30.0),
}
"""What -> shape and dtype of one message, and messages per second."""

_WARM_UP = 10


@dataclass(frozen=True)
class Cost:
    """Of one kind of frame over one kind of connection."""

    frame: str
    payload_bytes: int
    encrypted: bool
    messages: int
    lost: int
    p50_ms: float
    p99_ms: float
    cpu_ms_per_message: float


def send(pipe: Connection, endpoint: str, keys: Keys | None, what: str, messages: int) -> None:
    """The sender's process: waits for the word, sends at the frame's rate, and says what CPU time it took."""
    shape, dtype, rate_hz = FRAMES[what]
    samples = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    with FrameSender(endpoint, keys=keys) as sender:

        def publish(number: int) -> None:
            parts = encode_frame(
                "bench", "m", number, samples, capture_ns=time.monotonic_ns(), unit="u", clock=Clock()
            )
            sender.send(parts)

        while not pipe.poll(0.02):  # until the receiver has heard the first
            publish(0)
        pipe.recv()
        began_cpu, began = time.process_time(), time.monotonic()
        for number in range(1, messages + 1):
            time.sleep(max(0.0, began + number / rate_hz - time.monotonic()))
            publish(number)
        time.sleep(0.5)  # closing drops what is not sent yet
        pipe.send(time.process_time() - began_cpu)


def measure(
    what: str, messages: int, node: Keys | None, sensor: Keys | None
) -> tuple[list[float], float, int]:
    """Latencies in ms, CPU seconds of both processes, and messages lost of one round."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    latencies: list[float] = []
    with FrameReceiver(endpoint, keys=node) as receiver:
        process = spawn.Process(target=send, args=(there, endpoint, sensor, what, messages))
        process.start()
        receiver.socket.poll(30_000)
        here.send("go")
        began_cpu = time.process_time()
        last = 0
        while last < messages and receiver.socket.poll(2000):
            parts = receiver.receive()
            received_ns = time.monotonic_ns()
            if parts is None:
                continue
            header = msgpack.unpackb(parts[1])
            last = header["sequence"]
            if last > 0:
                latencies.append((received_ns - header["capture_ns"]) / 1e6)
        cpu_s = time.process_time() - began_cpu + here.recv()
        process.join()
    return latencies[_WARM_UP:], cpu_s, messages - len(latencies)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100, help="in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    costs: list[Cost] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "keys"
        new_keys("node", folder)
        new_keys("sensor", folder)
        node, sensor = load_keys("node", folder=folder), load_keys("sensor", "node", folder=folder)
        write_allow_list(
            folder / ALLOW_LIST_NAME, AllowList(keys=(AllowedKey(key=sensor.public, role="sensor"),))
        )
        for what in track(FRAMES, console=Console(stderr=True)):
            rounds: dict[bool, list[tuple[list[float], float, int]]] = {False: [], True: []}
            for _ in range(arguments.rounds):
                rounds[False].append(measure(what, arguments.messages, None, None))
                rounds[True].append(measure(what, arguments.messages, node, sensor))
            for encrypted, measured in rounds.items():
                latencies = [latency for one, _, _ in measured for latency in one]
                sent = arguments.messages * arguments.rounds
                shape, dtype, _ = FRAMES[what]
                costs.append(
                    Cost(
                        frame=what,
                        payload_bytes=int(np.prod(shape)) * np.dtype(dtype).itemsize,
                        encrypted=encrypted,
                        messages=sent,
                        lost=sum(lost for _, _, lost in measured),
                        p50_ms=statistics.median(latencies),
                        p99_ms=statistics.quantiles(latencies, n=100)[98],
                        cpu_ms_per_message=sum(cpu for _, cpu, _ in measured) / sent * 1e3,
                    )
                )
    table = Table("frame", "bytes", "", "p50 ms", "p99 ms", "CPU ms per message", "lost")
    for c in costs:
        table.add_row(
            *(c.frame, str(c.payload_bytes), "CURVE" if c.encrypted else "plain"),
            *(f"{c.p50_ms:.2f}", f"{c.p99_ms:.2f}", f"{c.cpu_ms_per_message:.2f}", str(c.lost)),
        )
    Console().print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(c) for c in costs], indent=1) + "\n")


if __name__ == "__main__":
    main()
