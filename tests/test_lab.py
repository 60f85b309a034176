"""JupyterLab as `make lab` starts it, in a real browser."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
from browser import SECONDS, chromium, in_time  # noqa: F401  (a fixture)

from helpers import ROOT

CONFIG = ROOT / "helpers" / "run" / "lab" / "jupyter_server_config.py"
WITH_WIDGETS = [
    file.name
    for file in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    if "widgets.explorer(" in file.read_text()
]
pytestmark = pytest.mark.slow
# A picture changes within a second on a machine that does nothing else; in continuous integration it does.
PATIENCE = 60_000 if SECONDS else 3000


@pytest.fixture(scope="module")
def lab():
    """Address of a running JupyterLab, with its token."""
    token = "a-test"
    command = [sys.executable, "-m", "jupyterlab", "--config", str(CONFIG), "--no-browser", "--port=0"]
    command += ["--IdentityProvider.token=" + token, *(["--allow-root"] if os.geteuid() == 0 else [])]
    # One thread: two wait for each other where something else computes, too.
    environment = os.environ | {"TQDM_DISABLE": "0", "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    address = None
    for line in server.stderr:
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", line):
            address = found[0]
            break
    assert address, "JupyterLab did not start"
    threading.Thread(target=server.stderr.read, daemon=True).start()  # a full pipe would stop it
    yield address, token
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(20)


@pytest.fixture(scope="module")
def tab(lab):
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        page.set_default_timeout(60_000)
        outside = []
        page.on("request", lambda request: outside.append(request.url))
        yield page
        foreign = [
            url
            for url in outside
            if not re.match(r"(https?|wss?)://(localhost|127\.0\.0\.1)[:/]|data:|blob:", url)
        ]
        assert foreign == [], "a request left the machine"


def open_notebook(page, lab, name):
    address, token = lab
    page.goto(f"{address}/lab/tree/notebooks/{name}?token={token}&reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()


@pytest.fixture
def copied(request, lab, tab):
    """A copy of a committed notebook beside it, so that the test may save it; its kernel ends with it."""
    name = request.param
    copy = ROOT / "notebooks" / f"_{name}"
    shutil.copy(ROOT / "notebooks" / name, copy)
    yield copy
    copy.unlink()
    address, token = lab
    for kernel in tab.request.get(f"{address}/api/kernels?token={token}").json():
        tab.request.delete(f"{address}/api/kernels/{kernel['id']}?token={token}")


@pytest.mark.parametrize("copied", ["00_start_here.ipynb", "12_add_training.ipynb"], indirect=True)
def test_looking_and_saving_changes_nothing(lab, tab, copied):
    before = copied.read_bytes()
    open_notebook(tab, lab, copied.name)
    written = copied.stat().st_mtime_ns
    tab.locator(".jp-Notebook").click(position={"x": 5, "y": 5})
    tab.keyboard.press("Control+s")
    for _ in range(100):
        if copied.stat().st_mtime_ns != written:
            break
        time.sleep(0.1)
    else:
        pytest.fail("it was not saved")
    time.sleep(0.5)
    assert copied.read_bytes() == before


def run_all(page):
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("Python 3 (ipykernel) | Busy").wait_for()


def explorers(page):
    return page.locator(".widget-vbox:has(> img.widget-image)")


def move_each_control(page, explorer):
    """By keyboard; the picture changes each time, and its height does not."""
    picture = explorer.locator("img.widget-image")
    controls = explorer.locator(".noUi-handle, .widget-toggle-buttons")
    explorer.scroll_into_view_if_needed()
    height = picture.bounding_box()["height"]
    for i in range(controls.count()):
        control = controls.nth(i)
        before = picture.get_attribute("src")
        if "noUi-handle" in control.get_attribute("class"):
            control.focus()
            page.keyboard.press("ArrowRight")
        elif control.get_by_role("button").count() < 2:  # nothing to choose in this profile
            continue
        else:
            control.get_by_role("button").nth(1).focus()
            page.keyboard.press("Space")
        page.wait_for_function(
            "([image, before]) => image.src !== before",
            arg=[picture.element_handle(), before],
            timeout=PATIENCE,
        )
    assert picture.bounding_box()["height"] == height


@pytest.mark.parametrize("copied", WITH_WIDGETS, indirect=True)
def test_each_explorer_answers_the_keyboard(lab, tab, copied):
    """From artifacts at hand; what is not there is made first, which takes as long as the notebook."""
    open_notebook(tab, lab, copied.name)
    run_all(tab)
    expected = copied.read_text().count("widgets.explorer(")
    explorers(tab).nth(expected - 1).wait_for(timeout=600_000)
    # The kernel is idle between two cells, too: done is what has no star any more.
    starred = "[...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))"
    tab.wait_for_function(f"() => !{starred}", timeout=600_000)
    tab.get_by_text("Python 3 (ipykernel) | Idle").wait_for()
    assert tab.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    texts = tab.locator(".jp-Cell.jp-MarkdownCell").count()
    assert explorers(tab).count() == expected
    for i in range(expected):
        move_each_control(tab, explorers(tab).nth(i))
    assert tab.locator(".jp-Cell.jp-MarkdownCell").count() == texts, "a key turned a cell into text"
