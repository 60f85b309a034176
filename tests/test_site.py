"""The site in a real browser: nothing leaves the machine, formulas are drawn, search and links lead on."""

import functools
import http.server
import re
import shutil
import subprocess
import sys
import threading

import pytest
from browser import chromium

from helpers import ROOT

SITE = ROOT / "pages" / "site"
pytestmark = pytest.mark.slow


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address():
    """Of the site, built anew, on loopback."""
    if shutil.which("npm") is None:
        pytest.skip("no npm here: apt install npm")
    subprocess.run([sys.executable, "-m", "pages.build"], cwd=ROOT, check=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def tab(address):
    """A tab that notes what goes wrong; at the end nothing has."""
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1300, "height": 900}).new_page()
        foreign, said = [], []
        page.on("request", lambda request: foreign.append(request.url))
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("response", lambda answer: said.append(answer.url) if answer.status >= 400 else None)
        yield page
        assert [url for url in foreign if not url.startswith((address, "data:", "blob:"))] == []
        assert said == []


def names():
    return sorted(file.stem for file in (ROOT / "notebooks").glob("[0-9]*.ipynb"))


@pytest.mark.parametrize("name", ["index", "syllabus", "arn", *names()])
def test_a_page_opens_and_has_a_heading(tab, address, name):
    tab.goto(f"{address}/{name}.html")
    assert tab.locator("article h1").first.inner_text().strip()


def test_formulas_are_drawn(tab, address):
    tab.goto(f"{address}/22_arn_training.html")
    tab.locator("mjx-container").first.wait_for()
    assert tab.locator("mjx-merror").count() == 0


def test_the_search_finds(tab, address):
    tab.goto(f"{address}/search.html?q=BPDA")
    tab.locator("#search-results li a").first.wait_for()
    found = " ".join(tab.locator("#search-results li a").all_inner_texts())
    assert "BPDA" in found


@pytest.mark.parametrize("width", [375, 1300])
def test_no_page_is_wider_than_the_screen(tab, address, width):
    tab.set_viewport_size({"width": width, "height": 800})
    wide = []
    for name in ("index", "00_start_here", "23_arn_pixel_attacks", "syllabus"):
        tab.goto(f"{address}/{name}.html")
        if tab.evaluate("document.documentElement.scrollWidth") > width + 1:
            wide.append(name)
    assert wide == []


def test_the_dark_mode_is_dark(tab, address):
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{address}/index.html")
    colour = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", colour)[:3])) < 80
    tab.emulate_media(color_scheme="light")


def test_no_link_is_dead(address):
    dead = []
    for file in SITE.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        for link in re.findall(r'href="([^"#?]+)', text):
            if "://" not in link and not link.startswith(("mailto:", "data:")) and not (SITE / link).exists():
                dead.append(f"{file.name}: {link}")
    assert dead == []
