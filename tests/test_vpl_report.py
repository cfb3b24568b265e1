"""The report, in a real browser from the disk: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import posixpath
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import h5py
import numpy as np
import pytest

import vpl_dataset
from vpl.report import write_report
from vpl_dataset import episode_folders, load_episode

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --autoplay-policy=no-user-gesture-required"
).split()
TIMES = "[...document.querySelectorAll('video')].map((film) => film.currentTime)"
READY = "[...document.querySelectorAll('video')].every((film) => film.readyState >= 2 && !film.seeking)"


@pytest.fixture(scope="module")
def report(dataset: Path) -> Path:
    return write_report(dataset, episode_folders(dataset), dataset / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("needs chromium (Debian's package)")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(report: Path, browser) -> Iterator:
    """The report's index, opened from the disk; a message in the console fails the test."""
    page, messages = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.append(request.url) if request.url.startswith("http") else None)
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    yield page
    page.close()
    assert messages == []


def open_episode(page, name: str) -> None:
    page.click(f"text={name}")
    page.wait_for_function(f"document.getElementById('which').textContent.startsWith('{name}')")
    page.wait_for_function(READY)


def test_index_has_a_card_an_episode(page, dataset):
    assert page.locator(".card").count() == 10
    successes = sum(load_episode(folder).attrs["success"] for folder in episode_folders(dataset))
    assert page.inner_text("#count") == f"10 of 10 episodes, {successes} successful"
    assert page.evaluate("[...document.images].every((image) => image.naturalWidth > 0)")


def test_filters(page, dataset):
    flags = [load_episode(folder).attrs["success"] for folder in episode_folders(dataset)]
    for value, count in (("yes", sum(flags)), ("no", 10 - sum(flags)), ("", 10)):
        page.select_option("#success", value)
        assert page.locator(".card").count() == count
    page.fill("#name", "007")
    assert page.locator(".card").count() == 1
    page.fill("#name", "")
    page.fill("#least", "1.01")
    assert page.locator(".card").count() == 0
    page.fill("#least", "1")
    page.select_option("#order", "metric")
    assert page.locator(".card").count() == 10
    drawers = {folder.name: load_episode(folder)["drawer_pos"][-1] for folder in episode_folders(dataset)}
    assert page.locator(".card").first.inner_text().split()[0] == max(drawers, key=lambda name: drawers[name])


def test_videos_and_cursor_follow_ten_seeks(page, dataset):
    open_episode(page, "episode_003")
    joints = load_episode(dataset / "episode_003")["joint_pos"][:, 0]
    for row in (0, 59, 7, 31, 30, 58, 1, 44, 12, 29):
        page.evaluate(f"shown.seek({row})")
        page.wait_for_function(READY)
        times = page.evaluate(TIMES)
        assert [int(60 * seconds) for seconds in times] == [row, row]
        assert page.input_value("#scrubber") == str(row) and f"row {row} of 60" in page.inner_text("#clock")
        assert page.evaluate("shown.plots[0].cursor.idx") == row
        assert abs(page.evaluate(f"shown.plots[0].data[1][{row}]") - joints[row]) < 1e-3


def test_videos_play_in_step(page):
    open_episode(page, "episode_000")
    page.select_option("#speed", "0.5")
    page.click("#play")
    # One expression, because the videos play on between two calls. A busy machine draws fewer frames, so that the
    # scrubber falls behind for a moment; what counts is that it catches up while the videos play.
    follows = "Math.abs(shown.rowNow() - Number(document.getElementById('scrubber').value)) <= 2"
    for row in (10, 20, 30, 40):
        page.wait_for_function(f"Number(document.getElementById('scrubber').value) >= {row} && {follows}", polling=10)
        times = page.evaluate(TIMES)
        assert abs(times[0] - times[1]) <= 1 / 60 + 1e-3


def test_scrubber_neighbours_and_space(page):
    open_episode(page, "episode_000")
    page.evaluate("(s => { s.value = 25; s.dispatchEvent(new Event('input')); })(document.getElementById('scrubber'))")
    page.wait_for_function(READY)
    assert page.evaluate("shown.row") == 25
    drawn = "shown.space.canvas.toDataURL()"
    before = page.evaluate(drawn)
    page.evaluate("shown.seek(50)")
    assert page.evaluate(drawn) != before
    page.click("#after")
    page.wait_for_function("document.getElementById('which').textContent.startsWith('episode_001')")
    page.wait_for_function(READY)
    page.click("text=all episodes")
    page.wait_for_selector("#grid", state="visible")
    assert not page.is_visible("#player")


def test_served_to_another_machine_in_parts(dataset, report):
    command = [sys.executable, vpl_dataset.__file__, "view", str(dataset), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        port = process.stdout.readline().split(":")[2].split("/")[0]
        video = dataset / "episode_000" / "camera_0" / "episode_000.mp4"
        url = f"http://127.0.0.1:{port}/{video.relative_to(dataset)}"
        with urlopen(Request(url, headers={"Range": "bytes=100-199"})) as answer:
            assert answer.status == 206 and answer.read() == video.read_bytes()[100:200]
        for beyond in ("bytes=999999999-", "bytes=50-20"):
            with pytest.raises(HTTPError, match="416"):
                urlopen(Request(url, headers={"Range": beyond}))
        with urlopen(f"http://127.0.0.1:{port}/report.html") as answer:
            assert answer.read() == report.read_bytes()
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture
def damaged(dataset, tmp_path) -> Path:
    """A dataset of one episode, to be spoilt."""
    shutil.copytree(dataset / "episode_000", tmp_path / "set" / "episode_000")
    return tmp_path / "set"


def test_a_page_of_the_users_is_not_replaced(damaged, capsys):
    page = damaged / "report.html"
    page.write_text("my own notes")
    with pytest.raises(SystemExit, match="2"):
        vpl_dataset.main(["view", str(damaged)])
    assert "is not of this program" in capsys.readouterr().err and page.read_text() == "my own notes"
    page.unlink()
    for _ in range(2):  # its own is
        assert vpl_dataset.main(["view", str(damaged)]) == 0
    assert {path.name for path in damaged.iterdir()} == {"episode_000", "report.html"}


def test_numbers_that_are_none_do_not_blank_the_page(damaged, browser):
    with h5py.File(damaged / "episode_000" / "episode_000.h5", "r+") as file:
        file["intrinsics"][0, 0, 0] = np.nan
        file["joint_pos"][3, 2] = np.inf
    page = browser.new_page()
    report = write_report(damaged, episode_folders(damaged), damaged / "report.html")
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=10_000)
    page.close()


@pytest.mark.parametrize("command", ["view", "info", "stats"])
def test_episode_without_images_is_one_line(damaged, capsys, command):
    with h5py.File(damaged / "episode_000" / "episode_000.h5", "r+") as file:
        del file["color"]
    assert vpl_dataset.main([command, str(damaged)]) == 1
    error = capsys.readouterr().err
    assert "episode_000.h5 lacks color; move its folder away" in error and error.count("\n") == 1


@contextmanager
def served(dataset: Path, *flags: str) -> Iterator[str]:
    """`view --port` of a dataset in a process of its own; yields the page's address."""
    command = [sys.executable, vpl_dataset.__file__, "view", str(dataset), "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        process.stdout.readline()
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        assert process.communicate()[1] == ""


def test_server_outlives_browsers_that_leave_in_the_middle(dataset, tmp_path):
    shutil.copytree(dataset / "episode_000", tmp_path / "episode_000")
    shutil.copy(dataset / "metadata.json", tmp_path)
    with open(tmp_path / "episode_000" / "camera_0" / "episode_000.mp4", "ab") as video:
        video.truncate(50_000_000)  # more than is on its way when a browser leaves
    with served(tmp_path) as page:
        address = urlsplit(page)
        for _ in range(3):
            with socket.create_connection((address.hostname, address.port)) as browser:
                browser.sendall(b"GET /episode_000/camera_0/episode_000.mp4 HTTP/1.0\r\n\r\n")
            time.sleep(0.2)
        with urlopen(page) as answer:
            assert answer.status == 200


def test_only_the_page_and_its_videos_are_served_and_to_this_machine_only(dataset, tmp_path):
    with served(dataset, "--output", str(tmp_path / "page.html")) as address:
        assert address.startswith("http://127.0.0.1:") and address.endswith("/page.html")
        page = urlopen(address).read().decode()
        (video,) = re.findall(r'"path":"([^"]*episode_003/camera_1/episode_003.mp4)"', page)
        place = posixpath.normpath(f"/{video}")
        assert urlopen(address.replace("/page.html", place)).read()[4:8] == b"ftyp"
        for other in (
            "/",
            "/metadata.json",
            f"{posixpath.dirname(place)}/",
            "/../../../../etc/passwd",
            "/%2e%2e/page.html",
        ):
            with pytest.raises(HTTPError) as refusal:
                urlopen(address.replace("/page.html", other))
            assert refusal.value.code == 404, other


def test_a_browser_that_drops_its_request_leaves_no_traceback(dataset):
    with served(dataset) as address:
        for _ in range(5):
            host, port = address.removeprefix("http://").split("/")[0].split(":")
            with socket.create_connection((host, int(port))) as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.send(b"GET /report.html HTTP/1.1\r\nHost: x\r\n\r\n")
        assert urlopen(address).status == 200


def test_recorded_text_is_shown_and_not_run(damaged, browser):
    text = "open </script><script>window.ran = 1</script> {{NUMBERS}} <!-- \u2028 & the drawer"
    with h5py.File(damaged / "episode_000" / "episode_000.h5", "r+") as file:
        file.attrs["language_instruction"] = text
    report = write_report(damaged, episode_folders(damaged), damaged / "report.html")
    page = browser.new_page()
    page.goto(report.resolve().as_uri())
    page.wait_for_selector("body[data-ready=yes]", timeout=10_000)
    assert page.evaluate("window.ran") is None
    assert page.evaluate("JSON.parse(document.getElementById('data').textContent).episodes[0].text") == text
    page.close()


def test_page_for_a_read_only_disk_is_written_elsewhere(dataset, tmp_path, browser):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*")}
    assert vpl_dataset.main(["view", str(dataset), "--output", str(tmp_path / "ä #" / "page.html")]) == 0
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*")} == before
    page = browser.new_page()
    page.goto((tmp_path / "ä #" / "page.html").as_uri())
    page.wait_for_selector("body[data-ready=yes]")
    page.click("#index figure, #index > *")
    page.wait_for_function(READY)
    page.close()


def test_port_that_cannot_be_had_is_one_line(dataset, capsys):
    with pytest.raises(SystemExit) as error:
        vpl_dataset.main(["view", str(dataset), "--port", "99999"])
    assert error.value.code == 2 and "--port must be from 0 to 65535, got 99999" in capsys.readouterr().err
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert vpl_dataset.main(["view", str(dataset), "--port", str(taken.getsockname()[1])]) == 1
    assert capsys.readouterr().err.startswith("error: ")
