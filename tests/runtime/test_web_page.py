"""The page in a real Chromium. `TEST_SCREENSHOTS` names a folder for what it looks like."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtime.features.tracking import Seen
from tests.runtime.web import Stream, an_event, conversation, early, faces, nobody, serving

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
DESK, PHONE, SMALL = (1280, 800), (390, 844), (360, 640)
TALL = (1280, 860)  # all of the page, for the picture in docs/web.md


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no Chromium here (apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = os.environ.get("TEST_SCREENSHOTS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("screenshots")
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


@pytest.fixture(scope="module")
def face(demo: Path) -> Seen:
    return faces(demo, 1)[0]


class Browser:
    """The page, looked at."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.size(DESK)

    def size(self, size: tuple[int, int], *, dark: bool = False, still: bool = False) -> None:
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if still else "no-preference"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    def ask(self, script: str, *args: Any) -> Any:
        return self.driver.execute_script(script, *args)

    def text(self, selector: str) -> str:
        found = self.ask("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def said(self) -> list[str]:
        found = self.ask(
            "return [...document.querySelectorAll('#said li:not(.early) .words')]"
            ".map(e => e.innerText)"
        )
        return list(found)

    def until(self, what: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        deadline = time.monotonic() + timeout_s
        while not (found := what()):
            assert time.monotonic() < deadline, self.text("body")
            time.sleep(0.05)
        return found

    def click(self, name: str) -> None:
        self.driver.find_element("id", name).click()

    def picture(self, name: str) -> None:
        time.sleep(0.4)  # what moves comes to rest
        self.driver.save_screenshot(str(self.folder / f"{name}.png"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]


@pytest.fixture
def browser(chromium: Any, pictures: Path) -> Iterator[Browser]:
    found = Browser(chromium, pictures)
    found.complaints()
    yield found
    chromium.get("about:blank")


@contextlib.contextmanager
def page(browser: Browser, stream: Stream, **options: Any) -> Iterator[Any]:
    """A server with the page open."""
    with serving(stream, **options) as web:
        browser.driver.get(web.url)
        browser.until(lambda: browser.ask("return document.body.dataset.link") == "open")
        yield web
        assert browser.complaints() == []


@contextlib.contextmanager
def ended(process: "subprocess.Popen[str]") -> Iterator[None]:
    """However the test ends, so does what it has started."""
    try:
        yield
    finally:
        process.kill()


def test_the_demo_clip_in_real_time(browser: Browser, root: Path) -> None:
    """The command, the page beside it, a reload, a second tab, Ctrl-C."""
    command = [sys.executable, "-m", "runtime.cli", "--demo", "--web", "0"]
    with (
        subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process,
        ended(process),
    ):
        assert process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:\d+/", process.stderr.readline())
        assert found is not None
        browser.driver.get(found.group())
        browser.until(lambda: browser.text("#said .early .words"))
        assert browser.said() == []
        assert browser.text("#stage") == ""
        browser.until(lambda: len(browser.said()) == 1)
        browser.until(lambda: browser.text("#said .early .words"))
        browser.size(TALL)
        browser.picture("web")
        browser.size(DESK)
        browser.until(lambda: len(browser.said()) == 2)
        first, second = browser.said()
        assert "cold-hearted" in first
        assert "amiable" in second
        browser.until(lambda: browser.text("#status") == "Ended")

        browser.driver.refresh()
        browser.until(lambda: browser.said() == [first, second])
        browser.driver.switch_to.new_window("tab")
        browser.driver.get(found.group())
        browser.until(lambda: browser.said() == [first, second])
        asked = browser.ask(
            "return performance.getEntriesByType('resource').map(entry => entry.name)"
        )
        assert asked
        assert all(name.startswith(found.group()) for name in asked)
        assert browser.complaints() == []
        browser.driver.close()
        browser.driver.switch_to.window(browser.driver.window_handles[0])
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0
    assert len(out.splitlines()) == 2
    assert "Traceback" not in err


def test_what_a_talk_looks_like(browser: Browser, face: Seen) -> None:
    stream = Stream()
    stream.seen = face
    with page(browser, stream) as web:
        events = conversation()
        for event in events:
            web.emit(event)
        browser.until(lambda: len(browser.said()) == 8)
        assert browser.text("#emotion") == "Happiness"
        assert browser.text("#reasons").splitlines() == list(events[-1].reasons)
        assert browser.text("#quality") == "picture is dark"
        assert "words and face disagree" in browser.text("#said li:nth-child(6)")
        assert browser.ask("return document.querySelectorAll('#chart-sentiment .dot').length") == 8
        assert "8 in the last five min" in browser.ask(
            "return document.getElementById('chart-sentiment').getAttribute('aria-label')"
        )
        web.emit(early(9, 2, p=0.62, text="So, what shall we do", start_s=262.0, end_s=264.0))
        browser.until(lambda: browser.text("#said .early .words"))
        for dark in (False, True):
            for name, size in (("desk", DESK), ("phone", PHONE)):
                browser.size(size, dark=dark)
                stream.seen = replace(face)  # a new picture
                browser.picture(f"{name}-{'dark' if dark else 'light'}")
        for size in (SMALL, PHONE, (800, 600), DESK):
            browser.size(size)
            width = browser.ask("return document.documentElement.scrollWidth")
            assert width <= size[0]


def test_an_uncertain_emotion_looks_uncertain(browser: Browser, face: Seen) -> None:
    stream = Stream()
    stream.seen = face
    with page(browser, stream) as web:
        web.emit(an_event(1, emotion="fear", p=0.41))
        browser.until(browser.said)
        assert browser.text("#emotion") == "Not sure"
        assert browser.text("#sure") == "perhaps fear, 41 %"
        label = "return document.getElementById('face').getAttribute('aria-label')"
        browser.until(lambda: "not sure" in browser.ask(label))
        browser.picture("uncertain")


def test_room_camera_and_connection_look_like_what_they_are(browser: Browser, face: Seen) -> None:
    stream = Stream()

    def note() -> str:
        return browser.text("#view-note")

    with page(browser, stream) as web:
        stream.seen = face
        browser.until(lambda: browser.text("#people") == "1 person")
        stream.seen = nobody()
        browser.until(lambda: note() == "Nobody in view")
        browser.picture("empty")
        stream.down["vision"] = "/dev/video0: no such device"
        browser.until(lambda: note() == "The camera is down")
        assert "/dev/video0: no such device" in browser.text("#devices")
        assert browser.text("#status") == "A device is down"
        browser.picture("camera-down")
        del stream.down["vision"]
        stream.delivers = ["audio"]
        browser.until(lambda: note() == "No camera: voice and words only")
        web.emit(an_event(1))
        browser.until(browser.said)
        port = web.port
    browser.until(lambda: browser.text("#status") == "Connection lost")
    assert browser.text("#retry").startswith("next try in")
    assert browser.ask("return document.body.dataset.link") == "lost"
    assert browser.said() == ["sentence 1"]
    browser.picture("connection-lost")
    with serving(stream, str(port)) as web:
        browser.until(lambda: browser.text("#status") == "Listening")
        web.emit(an_event(1, text="another session"))
        browser.until(lambda: browser.said() == ["sentence 1", "another session"])


def test_buttons(browser: Browser, tmp_path: Path) -> None:
    stream = Stream()
    with page(browser, stream) as web:
        browser.click("mute")
        browser.until(lambda: browser.text("#status") == "Muted")
        pressed = "return document.getElementById(arguments[0]).getAttribute('aria-pressed')"
        assert browser.ask(pressed, "mute") == "true"
        browser.click("mute")
        browser.until(lambda: browser.text("#status") == "Listening")
        browser.click("reset")
        browser.until(lambda: stream.commands == ["mute", "unmute", "reset"])
        assert "forgotten" in browser.text("#notice")

        web.emit(an_event(1))
        browser.until(lambda: browser.said() == ["sentence 1"])
        browser.click("pause")
        web.emit(an_event(2))
        browser.until(lambda: browser.text("#status") == "Paused, 1 new")
        assert browser.said() == ["sentence 1"]
        browser.click("pause")
        browser.until(lambda: browser.said() == ["sentence 1", "sentence 2"])

        allowed = {"behavior": "allow", "downloadPath": str(tmp_path)}
        browser.driver.execute_cdp_cmd("Browser.setDownloadBehavior", allowed)
        browser.click("save")
        saved = tmp_path / "dmd-live-session.jsonl"
        browser.until(saved.exists)
        lines = saved.read_text(encoding="utf-8").splitlines()
        assert lines == [an_event(1).to_json(), an_event(2).to_json()]


def test_a_final_that_replaces_another(browser: Browser) -> None:
    with page(browser, Stream()) as web:
        web.emit(an_event(1))
        web.emit(an_event(2, text="I have not"))
        browser.until(lambda: browser.said() == ["sentence 1", "I have not"])
        web.emit(an_event(2, text="I have not seen it", revision=1, replaces=0))
        browser.until(lambda: browser.said() == ["sentence 1", "I have not seen it"])


def test_a_page_that_falls_behind_says_so(browser: Browser) -> None:
    with page(browser, Stream()) as web:
        words = "word " * 150
        busy = "const until = Date.now() + 1500; while (Date.now() < until); return 1"
        thread = threading.Thread(target=browser.ask, args=(busy,))
        thread.start()
        time.sleep(0.1)
        for number in range(1, 1_001):
            web.emit(early(number, text=words))
            web.emit(early(number, 1, text=words))
        web.emit(an_event(1_000, text="the last one"))
        thread.join()
        browser.until(lambda: "fell behind" in browser.text("#notice"))
        browser.until(lambda: browser.said() == ["the last one"])
        assert re.search(r"lost \d+ early estimates and 0 utt", browser.text("#notice"))


def test_keyboard_and_screen_reader(browser: Browser) -> None:
    with page(browser, Stream()) as web:
        time.sleep(1.1)  # what comes first is the past
        web.emit(an_event(1, p=0.88))
        browser.until(lambda: browser.text("#announce") == "happiness, 88 %: sentence 1")
        reached, focused = [], "document.activeElement"
        for _ in range(6):
            browser.driver.switch_to.active_element.send_keys("\ue004")  # Tab
            reached.append(browser.ask(f"return {focused}.id || {focused}.className"))
        assert reached == ["skip", "mute", "pause", "reset", "save", "said"]
        browser.ask("document.getElementById('mute').focus()")
        browser.driver.switch_to.active_element.send_keys(" ")
        browser.until(lambda: browser.text("#status") == "Muted")
        nameless = browser.ask(
            "return [...document.querySelectorAll('button, canvas, svg, section, input, ul, ol')]"
            ".filter(e => !e.innerText && !e.ariaLabel && !e.getAttribute('aria-labelledby')"
            " && !document.querySelector(`label[for=${e.id}]`) && !e.closest('[hidden]'))"
            ".map(e => e.outerHTML)"
        )
        assert nameless == []


def test_nothing_moves_for_those_who_ask_for_it(browser: Browser) -> None:
    with page(browser, Stream()) as web:
        browser.size(DESK, still=True)
        web.emit(early(1))
        browser.until(lambda: browser.text("#said .early .words"))
        assert browser.ask("return document.getAnimations().length") == 0


def test_the_token_is_asked_for_and_kept(browser: Browser) -> None:
    token = "a long enough token"
    with serving(Stream(), token=token) as web:
        browser.driver.get(web.url)
        field = browser.driver.find_element("id", "token")
        browser.until(field.is_displayed)
        browser.picture("token")
        field.send_keys(token + "\n")
        browser.until(lambda: browser.text("#status") == "Listening")
        browser.driver.refresh()
        browser.until(lambda: browser.text("#status") == "Listening")
        browser.ask("sessionStorage.clear()")
        browser.driver.get(f"{web.url}?token={token}")
        browser.until(lambda: browser.text("#status") == "Listening")
        assert browser.driver.current_url == web.url
        browser.ask("sessionStorage.clear()")


@pytest.mark.parametrize("wanted", [False, True])
def test_the_picture_is_shown_only_when_asked_for(
    browser: Browser, face: Seen, wanted: bool
) -> None:
    stream = Stream()
    stream.seen = face
    with page(browser, stream, picture=wanted):
        browser.until(lambda: browser.text("#people") == "1 person")
        stream.seen = replace(face)
        browser.picture("with-picture" if wanted else "without-picture")
        corner = browser.ask(
            "const c = document.getElementById('face');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, 4).data;"
            "return d.reduce((n, v) => n + v, 0)"
        )
        assert (corner > 0) == wanted


def test_colours_can_be_read(root: Path) -> None:
    """WCAG 2: 4.5 to 1 for text, by scheme."""
    css = (root / "runtime/outputs/web/page/style.css").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block))
                   for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL))  # fmt: skip
    names = ("ink", "soft", "good", "bad", "warn", "anger", "disgust", "fear", "happiness",
             "neutral", "sadness", "surprise")  # fmt: skip
    for scheme in (light, dark):
        for name in names:
            for under in ("card", "page"):
                assert contrast(scheme[name], scheme[under]) >= 4.5, (name, under)
        assert contrast(scheme["warn"], scheme["warn-bg"]) >= 4.5


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (s / 12.92 if s <= 0.03928 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
