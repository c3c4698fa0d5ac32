"""report.html in a real browser: it opens from disk, is true of the file, and can be used."""

import csv
import itertools
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from certify_runs import rows_of
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from dsrs_jax.run.main import main

pytestmark = pytest.mark.browser

OPENED = itertools.count()
WIDTHS = {"desk": (1200, 1000), "phone": (390, 844)}
METHODS = {"Neyman-Pearson": "radius_np", "DSRS": "radius_dsrs"}


@pytest.fixture(scope="module")
def run(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "digits"
    words = ["--n", "2000", "--skip", "3", "--q-inside", "0.5", "--seed", "0"]
    assert main(["certify", "--model", model, *words, "--out", str(out)]) == 0
    assert main(["report", str(out), "--out", str(out / "results"), "--radii", "0.1", "0.25"]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options=options, service=webdriver.ChromeService(driver)) as made:
        yield made


def opened(browser: Any, run: Path, width: str = "desk") -> list[str]:
    """The heads of the images' columns, once the page is drawn."""
    across, down = WIDTHS[width]
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": across, "height": down, "deviceScaleFactor": 1, "mobile": width == "phone"},
    )
    # Of an address of its own: `get` may return while the page before it is still there.
    own = f"?{next(OPENED)}"
    browser.get((run / "results" / "report.html").as_uri() + own)
    drawn = "return location.search === arguments[0] && !!document.querySelector('#images td')"
    WebDriverWait(browser, 300).until(lambda one: one.execute_script(drawn, own))
    return [one.text for one in browser.find_elements("css selector", "#images thead th")]


def cells(browser: Any, table: str) -> list[list[str]]:
    return browser.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent));",
        table,
    )


def down(text: str) -> str:
    return f"{math.floor(float(text) * 1e4) / 1e4:.4f}"


def test_the_page_says_what_the_file_says(browser: Any, run: Path) -> None:
    heads, rows = opened(browser, run), rows_of(run)
    while browser.find_element("id", "more").is_displayed():
        browser.find_element("id", "more").click()
    shown = [dict(zip(heads, row, strict=True)) for row in cells(browser, "images")]
    assert len(shown) == len(rows) == 120
    for row, own in zip(shown, rows, strict=True):
        for name in ("index", "label", "votes", "n", "status"):
            assert row[name] == own[name]
        for name, column in {**METHODS, "lower bound": "lower_np"}.items():
            assert row[name] == down(own[column])
        assert row["certified"] == ("yes" if float(own["radius_dsrs"]) > 0 else "no")
    for method, column in METHODS.items():
        mean = np.mean([float(row[column]) for row in rows])
        [found] = [row[2] for row in cells(browser, "means") if row[1] == method]
        assert mean - 1e-4 < float(found) <= mean
    pictures = browser.find_elements("css selector", "#images .thumbnail")
    assert len(pictures) == len(rows)
    assert "data:image/webp" in pictures[0].value_of_css_property("background-image")


def test_the_slider_changes_the_accuracy_to_that_of_the_table(browser: Any, run: Path) -> None:
    opened(browser, run)
    rows = rows_of(run)
    with open(run / "results" / "tables" / "accuracy.csv") as stream:
        table = {row[0]: row[1:] for row in csv.reader(stream)}
    for steps, radius in ((10, "0.1"), (15, "0.25")):
        browser.find_element("id", "radius").send_keys(Keys.ARROW_RIGHT * steps)
        assert float(browser.find_element("id", "at").text) == float(radius)
        for row, column, cell in zip(
            cells(browser, "accuracy"), METHODS.values(), table[radius], strict=False
        ):
            count = sum(float(own[column]) >= float(radius) for own in rows)
            assert 0 < count < len(rows)
            assert row[3:5] == [str(count), f"{100 * count / len(rows):.1f}%"]
            assert f"{row[4][:-1]} ({row[5]})" == cell
        marked = browser.find_elements("css selector", "#images tr.reached")
        assert len(marked) == sum(float(own["radius_dsrs"]) >= float(radius) for own in rows[:100])


def test_sorting_and_filters_choose_rows(browser: Any, run: Path) -> None:
    place, rows = opened(browser, run).index("DSRS"), rows_of(run)
    head = browser.find_elements("css selector", "#images th")[place]
    head.find_element("css selector", "button").click()
    largest = sorted((float(row["radius_dsrs"]) for row in rows), reverse=True)
    assert [row[place] for row in cells(browser, "images")] == [down(str(r)) for r in largest[:100]]
    browser.find_element("id", "reached").click()
    assert f"of {sum(r > 0 for r in largest)} images" in browser.find_element("id", "count").text
    browser.find_element("id", "find").send_keys(rows[7]["index"])
    assert all(rows[7]["index"] in row for row in cells(browser, "images"))


@pytest.mark.parametrize("width", WIDTHS)
def test_it_needs_no_network_fits_and_has_no_errors(browser: Any, run: Path, width: str) -> None:
    opened(browser, run, width)
    asked = "return performance.getEntriesByType('resource').map((r) => r.name)"
    assert all(name.startswith(("data:", "file:")) for name in browser.execute_script(asked))
    wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
    scroll, inner = browser.execute_script(wide)
    assert scroll <= inner, f"{scroll} pixels where there are {inner}"
    for name in ("curves", "bounds", "gains"):
        chart = browser.find_element("id", name)
        assert chart.find_elements("css selector", "svg.main-svg")
        assert chart.size["width"] <= inner
    assert not [one for one in browser.get_log("browser") if one["level"] == "SEVERE"]
