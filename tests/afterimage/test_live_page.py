"""The live demo for real: sensor processes, a node process, the page in Chromium, and a plug that is pulled."""

from __future__ import annotations

import re
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from headless import Visit, chromium
from process_under_test import ProcessUnderTest, afterimage
from published_node import wait_until

from afterimage.demo.switches import ProcessSwitches
from runtime.sensors.supervisor import SensorProcessError

pytest.importorskip(
    "uvicorn", reason="the page is served by uvicorn, of the `view` extra, which is not installed"
)


@pytest.fixture
def demo(tiny_bundle: Path) -> Iterator[tuple[ProcessUnderTest, str]]:
    """A running ``afterimage demo --live`` and the address of its page."""
    command = afterimage("demo", "--live", "--synthetic", "--port", 0, "--bundle", tiny_bundle)
    with ProcessUnderTest(command) as process:
        process.wait_for("Ctrl-C")
        yield process, process.wait_for(r"http://127\.0\.0\.1:\d+/").group()


def metric(url: str, name: str) -> float | None:
    with urllib.request.urlopen(url + "metrics", timeout=10) as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(found.group(1)) if found else None


def test_a_plug_is_pulled_on_the_page_and_put_back(demo: tuple[ProcessUnderTest, str]) -> None:
    process, url = demo
    mark = "document.querySelector('#tile-depth .mark').checkVisibility()"
    with chromium() as browser, Visit(browser, url) as visit:
        visit.waits_for(f"document.querySelector('#tile-depth .state')?.textContent === 'live' && !{mark}")
        tick = int(re.search(r"tick (\d+)", visit.text("#rig")).group(1))  # type: ignore[union-attr]
        visit.page.evaluate(
            "addEventListener('keydown', () => { const pressed = performance.now(); const timer = setInterval(() => {"
            f"if ({mark}) {{ clearInterval(timer); window.took = performance.now() - pressed; }} }}, 5); }})"
        )
        visit.page.keyboard.press("2")
        took_ms = visit.waits_for("window.took")
        lateness = metric(url, 'afterimage_stage_latency_seconds{quantile="0.99",stage="tick_lateness"}')
        # Only where the machine lets every process run on time does the time tell anything.
        assert took_ms < 1000 or lateness is None or lateness > 0.03
        assert visit.text("#tile-depth .state") == "missing"
        assert visit.text("#truth").startswith("truth ")
        visit.waits_for(
            f"Number(document.querySelector('#rig').textContent.match(/tick (\\d+)/)[1]) > {tick + 20}"
        )
        visit.page.click("#switch-depth")
        visit.waits_for(f"document.querySelector('#tile-depth .state').textContent === 'live' && !{mark}")
        assert metric(url, 'afterimage_sensor_restarts_total{modality="rgb"}') == 0
        assert metric(url, "afterimage_messages_unaccounted") == 0
        assert visit.complaints == []
    process.end(signal.SIGINT)


class Group:
    """Sensors that a test starts and stops."""

    modalities = ("rgb", "depth")

    def __init__(self) -> None:
        self.done: list[str] = []
        self.broken = False

    def kill(self, modality: str) -> None:
        self.done.append(f"kill {modality}")

    def restart(self, modality: str) -> None:
        self.done.append(f"restart {modality}")
        if self.broken:
            raise SensorProcessError("it does not start")


def test_a_switch_acts_once_and_says_why_a_sensor_did_not_come_back() -> None:
    group = Group()
    switches = ProcessSwitches(group)  # type: ignore[arg-type]
    switches.restore("rgb")  # it plays
    switches.drop("rgb")
    switches.drop("rgb")
    assert switches.states() == {"rgb": "dropped", "depth": "playing"}
    group.broken = True
    switches.restore("rgb")
    wait_until(lambda: switches.states()["rgb"] == "it does not start", "the failure to be told")
    group.broken = False
    switches.restore("rgb")
    wait_until(lambda: switches.states()["rgb"] == "playing", "the sensor to play")
    switches.close()
    switches.drop("depth")
    assert group.done == ["kill rgb", "restart rgb", "restart rgb"]
    assert switches.states()["depth"] == "playing"
