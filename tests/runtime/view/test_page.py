"""The page in a real browser: what it shows, by pointer and by keyboard, on a desk and on a phone."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest
from headless import Visit, chromium
from published_node import PublishedNode, Switches, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Browser

Serve = Callable[..., Any]
IMPUTED = "document.querySelector('#tile-{m} .mark').checkVisibility() === {yes}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def marked(modality: str, yes: bool = True) -> str:
    return IMPUTED.format(m=modality, yes="true" if yes else "false")


def test_a_dropped_sensor_is_marked_and_comes_back_by_pointer_and_keyboard(
    browser: Browser, node: PublishedNode, serve: Serve
) -> None:
    server, feed = serve(node.endpoint, switches=Switches(node))
    with Visit(browser, server.link) as visit:
        page = visit.page
        visit.waits_for("document.querySelector('#switch-depth')?.checkVisibility()")
        visit.waits_for(marked("depth", False))
        assert page.get_attribute("#switch-depth", "aria-pressed") == "false"
        assert visit.text("#switch-depth") == "Drop depth2"
        page.click("#switch-depth")
        visit.waits_for(marked("depth"))
        visit.waits_for("document.querySelector('#switch-depth').getAttribute('aria-pressed') === 'true'")
        assert visit.text("#switch-depth") == "Restore depth2"
        assert visit.text("#tile-depth .state") == "missing"
        assert "imputed: depth" in visit.text("#stands-on")
        ticks = feed.decisions
        page.focus("#switch-depth")
        page.keyboard.press("Enter")
        visit.waits_for(marked("depth", False))
        assert feed.decisions > ticks, "decisions go on"
        page.keyboard.press("3")
        visit.waits_for(marked("audio"))
        assert node.missing == {"audio"}
        page.keyboard.press("Control+3")
        page.keyboard.press("3")
        visit.waits_for(marked("audio", False))
        assert visit.complaints == []
        origin = re.compile(rf"^(http|ws)://127\.0\.0\.1:{server.port}/")
        assert [r for r in visit.requests if not origin.match(r)] == []


def test_everything_is_there_in_words_too(browser: Browser, node: PublishedNode, serve: Serve) -> None:
    server, _ = serve(node.endpoint)
    node.missing.add("eeg")
    with Visit(browser, server.link) as visit:
        visit.waits_for("document.querySelector('#counters tr') && document.querySelector('#events li')")
        visit.waits_for(
            "document.querySelector('#tile-eeg .imputed canvas').ariaLabel?.includes('8 channels')"
        )
        assert visit.text("#label") == "go"
        assert visit.text("#bars").split() == ["stop", "0.13", "go", "0.50", "left", "0.25", "right", "0.13"]
        assert "0 unaccounted" in visit.text("#unaccounted")
        assert "rgb: live → late, capture age" in visit.text("#events li:first-child")
        assert "p99" in visit.text("#lateness-numbers")
        assert "ticks 240" in visit.text("#node-numbers")
        assert visit.text("#tile-rgb .best .origin") == "measured"
        assert visit.text("#tile-rgb .imputed .origin") == "IMPUTED"
        assert visit.text("#tile-rgb .imputed .sources") == "from audio"
        visit.waits_for("document.querySelector('#tile-rgb .vital').textContent.includes('/s · 20 ms')")
        assert not visit.page.is_visible(".switch"), "no switch where there is nothing to switch"
        visit.page.focus("#rows canvas >> nth=3")
        visit.page.keyboard.press("ArrowLeft")
        visit.waits_for("document.querySelector('#readout').textContent.startsWith('eeg')")
        assert "stood on an estimate" in visit.text("#readout")
        assert visit.complaints == []


def test_numbers_that_came_with_an_update_that_was_not_drawn_are_shown(
    browser: Browser, node: PublishedNode, serve: Serve
) -> None:
    server, _ = serve(node.endpoint)
    node.telling = False
    with Visit(browser, server.link) as visit:
        visit.waits_for("document.querySelector('#tile-eeg .best canvas')?.ariaLabel")
        visit.page.keyboard.press("p")
        node.telling = True
        wait_until(lambda: node.told, "statistics")
        node.telling = False
        visit.page.wait_for_timeout(500)  # several updates later
        assert not visit.page.query_selector("#counters tr")
        visit.page.keyboard.press("p")
        visit.waits_for("document.querySelector('#counters tr')")
        assert visit.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(
    scheme: Any, browser: Browser, node: PublishedNode, serve: Serve
) -> None:
    server, _ = serve(node.endpoint, switches=Switches(node))
    options = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "reduced_motion": "reduce"}
    with Visit(browser, server.link, **options) as visit:
        visit.waits_for("document.querySelector('#counters tr')")
        # Not before: what happens while the page is not yet connected is told to nobody.
        node.missing |= {"rgb", "depth", "audio", "eeg"}
        visit.waits_for("document.querySelector('#events li')")
        visit.waits_for(marked("eeg"))
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= 360
        sticking_out = visit.page.evaluate(
            "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > 361).map(e => e.id)"
        )
        assert sticking_out == []
        assert low_contrast(visit) == []
        assert visit.complaints == []


def low_contrast(visit: Visit) -> list[str]:
    """Texts whose contrast with their ground is below 4.5 (AA), and what it is."""
    found: list[str] = visit.page.evaluate(
        """() => {
          const parse = (c) => c.match(/[\\d.]+/g).map(Number);
          const light = (c) => {
            const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            return 0.2126 * r + 0.7152 * g + 0.0722 * b;
          };
          const ground = (e) => {
            for (; e; e = e.parentElement) {
              const c = parse(getComputedStyle(e).backgroundColor);
              if (c.length < 4 || c[3] > 0) return c;
            }
            return [255, 255, 255];
          };
          const low = [];
          for (const e of document.querySelectorAll("body *")) {
            const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
            if (!own || !e.checkVisibility() || e.closest("noscript, .unseen, .skip")) continue;
            const a = light(parse(getComputedStyle(e).color)), b = light(ground(e));
            const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
            if (ratio < 4.5) low.push(`${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}: ${ratio.toFixed(2)}`);
          }
          return low;
        }"""
    )
    return found


def test_it_says_that_no_node_answers_and_that_one_stopped(
    browser: Browser, node: PublishedNode, silent_endpoint: str, serve: Serve
) -> None:
    server, _ = serve(silent_endpoint)
    with Visit(browser, server.link) as visit:
        visit.waits_for("document.querySelector('#status').textContent === 'no node'")
        assert "afterimage run" in visit.text("#notice")
        assert visit.complaints == []
    server, _ = serve(node.endpoint)
    with Visit(browser, server.link) as visit:
        visit.waits_for("document.querySelector('#status').textContent === 'live'")
        assert not visit.page.is_visible("#notice")
        node.speaking = False
        visit.waits_for("document.querySelector('#status').textContent === 'node stopped'")
        assert "last decision came" in visit.text("#notice")
        node.speaking = True
        visit.waits_for("document.querySelector('#status').textContent === 'live'")
        server.close()
        visit.waits_for("document.querySelector('#status').textContent === 'page lost'")


def test_the_keyboard_reaches_everything_in_order_and_the_display_can_be_paused(
    browser: Browser, node: PublishedNode, serve: Serve
) -> None:
    server, _ = serve(node.endpoint, switches=Switches(node))
    with Visit(browser, server.link) as visit:
        page = visit.page
        visit.waits_for("document.querySelector('#switch-eeg')?.checkVisibility()")
        reached = []
        for _ in range(11):
            page.keyboard.press("Tab")
            reached.append(
                page.evaluate("document.activeElement.id || document.activeElement.className || 'row'")
            )
            ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert ring == "solid", reached
        switches = [f"switch-{m}" for m in ("rgb", "depth", "audio", "eeg")]
        assert reached == ["skip", "pause", *switches, *["row"] * 4, "events"]
        page.keyboard.press("p")
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        before = visit.text("#rig")
        page.wait_for_timeout(300)
        assert visit.text("#rig") == before
        page.keyboard.press("p")
        visit.waits_for(f"document.querySelector('#rig').textContent !== {before!r}")


def test_with_a_token_the_link_opens_the_page_and_leaves_no_token_behind(
    browser: Browser, node: PublishedNode, serve: Serve
) -> None:
    server, _ = serve(node.endpoint, token="a-token-that-nobody-guesses")
    with Visit(browser, server.link) as visit:
        visit.waits_for("document.querySelector('#status').textContent === 'live'")
        assert visit.page.url == server.url
        assert visit.page.evaluate("document.cookie") == ""
        assert visit.complaints == []
