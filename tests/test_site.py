"""The site in a real browser: nothing leaves the machine, formulas are drawn, search and links lead on."""

import functools
import http.server
import re
import subprocess
import sys
import threading

import pytest
from browser import chromium, in_time  # noqa: F401  (a fixture)

from course import slides
from helpers import ROOT
from helpers.measure import scoreboard
from helpers.run import explorers

SITE = ROOT / "pages" / "site"
pytestmark = pytest.mark.slow


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """Of the site, built anew, on loopback."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("npm_config_fetch_retries", "0")  # without a network npm tries for minutes
        if lack := slides.packages(tmp_path_factory.mktemp("packages")):
            pytest.skip(lack)
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


@pytest.mark.parametrize("name", ["index", "syllabus", "numbers", "arn", *names()])
def test_a_page_opens_and_has_a_heading(tab, address, name):
    tab.goto(f"{address}/{name}.html")
    assert tab.locator("article h1").first.inner_text().strip()


def test_formulas_are_drawn(tab, address):
    tab.goto(f"{address}/22_arn_training.html")
    tab.locator("mjx-container").first.wait_for()
    assert tab.locator("mjx-merror").count() == 0


def pixels(picture):
    """What a picture shows, once it is there: its address would change even if nothing came."""
    return picture.evaluate(
        """async (image) => {
             await image.decode();
             const canvas = document.createElement("canvas");
             [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
             canvas.getContext("2d").drawImage(image, 0, 0);
             return canvas.toDataURL();
           }"""
    )


@pytest.mark.parametrize("name", sorted(folder.name for folder in explorers.FOLDER.iterdir()))
def test_each_control_of_each_explorer_moves_the_picture_by_keyboard(tab, address, name):
    tab.goto(f"{address}/{name}.html")
    shown = tab.locator("form.explorer")
    kept = explorers.read(explorers.FOLDER / name)
    assert shown.count() == len(kept)
    for i, index in enumerate(kept):
        form, picture = shown.nth(i), shown.nth(i).locator("img")
        assert form.locator("fieldset").count() == len(index["controls"])
        for j, control in enumerate(index["controls"]):
            before = pixels(picture)
            if len(control["labels"]) < 2:
                continue
            form.locator("fieldset").nth(j).locator("input").first.focus()
            tab.keyboard.press("ArrowRight")
            assert form.locator("fieldset").nth(j).get_by_text(control["labels"][1], exact=True).count()
            assert pixels(picture) != before


def test_of_an_explorer_with_many_pages_the_other_controls_go_back(tab, address):
    tab.goto(f"{address}/01_attacks.html")
    form = tab.locator("form.explorer")
    assert "one choice moves at a time" in form.inner_text()
    image, attack = (form.locator("fieldset").nth(i) for i in (0, 1))
    first = form.locator("img").get_attribute("src")
    image.locator("input").focus()
    tab.keyboard.press("ArrowRight")
    assert image.locator("output").inner_text() == "1"
    attack.locator("input").first.focus()
    tab.keyboard.press("ArrowRight")
    assert image.locator("output").inner_text() == "0" and attack.locator("input").nth(1).is_checked()
    tab.keyboard.press("ArrowLeft")
    assert form.locator("img").get_attribute("src") == first


def test_without_a_script_an_explorer_is_its_first_picture(tab, address):
    page = tab.context.browser.new_context(java_script_enabled=False).new_page()
    page.goto(f"{address}/01_attacks.html")
    form = page.locator("form.explorer")
    assert form.locator("img").is_visible() and not form.locator("fieldset").first.is_visible()
    assert "the others need a script" in form.inner_text()
    page.context.close()


def test_the_search_finds(tab, address):
    tab.goto(f"{address}/search.html?q=BPDA")
    tab.locator("#search-results li a").first.wait_for()
    found = " ".join(tab.locator("#search-results li a").all_inner_texts())
    assert "BPDA" in found


def test_the_table_of_all_numbers_keeps_those_with_all_that_is_typed(tab, address):
    rows = scoreboard.board()
    wanted = [row for row in rows if row["paper"] == "arn" and row["place"] == "table 3"]
    tab.goto(f"{address}/numbers.html")
    lines = tab.locator(".numbers tbody tr:visible")
    assert lines.count() == len(rows)
    tab.get_by_label("Only with").fill("table 3, ARN")
    assert 0 < lines.count() == len(wanted) < len(rows)
    assert tab.locator(".numbers output").inner_text() == f"{len(wanted)} of {len(rows)} numbers"
    tab.get_by_label("Only with").fill("")
    assert lines.count() == len(rows)


@pytest.mark.parametrize("width", [375, 1300])
def test_no_page_is_wider_than_the_screen(tab, address, width):
    tab.set_viewport_size({"width": width, "height": 800})
    wide = []
    for name in ("index", "00_start_here", "23_arn_pixel_attacks", "syllabus", "numbers"):
        tab.goto(f"{address}/{name}.html")
        if tab.evaluate("document.documentElement.scrollWidth") > width + 1:
            wide.append(name)
    assert wide == []


@pytest.mark.parametrize("name", ["index", "12_add_training", "51_scoreboard", "numbers"])
def test_the_dark_mode_is_dark(tab, address, name):
    """The page, and each output in HTML: the theme puts some on a light ground."""
    tab.emulate_media(color_scheme="dark")
    tab.goto(f"{address}/{name}.html")
    grounds = tab.evaluate(
        """[document.body, ...document.querySelectorAll(".cell_output .text_html")].map(
             (part) => getComputedStyle(part).backgroundColor)"""
    )
    tab.emulate_media(color_scheme="light")
    assert grounds[0] != "rgba(0, 0, 0, 0)"
    assert all(max(map(int, re.findall(r"\d+", ground)[:3])) < 80 for ground in grounds)


def test_no_link_is_dead(address):
    dead = []
    for file in SITE.glob("*.html"):
        text = file.read_text(encoding="utf-8")
        for link in re.findall(r'href="([^"#?]+)', text):
            if "://" not in link and not link.startswith(("mailto:", "data:")) and not (SITE / link).exists():
                dead.append(f"{file.name}: {link}")
    assert dead == []
