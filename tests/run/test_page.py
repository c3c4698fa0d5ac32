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

from dsrs_jax.run.main import main

selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait
OPENED = itertools.count()
WIDTHS = {"desk": (1200, 1000), "phone": (390, 844)}


@pytest.fixture(scope="module")
def run(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("page") / "digits"
    words = ["--n", "2000", "--skip", "3", "--sigma", "0.4", "--draws", "sound"]
    assert main(["certify", "--model", model, *words, "--out", str(out)]) == 0
    assert main(["report", str(out), "--out", str(out / "results"), "--radii", "0.1", "0.25"]) == 0
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium and chromedriver: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield made
    made.quit()


def opened(browser: Any, run: Path, width: str = "desk") -> Any:
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
    return browser


def cells(browser: Any, table: str) -> list[list[str]]:
    return browser.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".map((row) => [...row.cells].map((cell) => cell.textContent));",
        table,
    )


def press(browser: Any, element: str, *keys: str) -> None:
    browser.find_element("id", element).send_keys(*keys)


def click_on(browser: Any, column: str) -> None:
    [button] = [
        one
        for one in browser.find_elements("css selector", "#images th button")
        if one.get_attribute("textContent") == column
    ]
    button.click()


def down(text: str) -> str:
    return f"{math.floor(float(text) * 1e4) / 1e4:.4f}"


def test_the_page_says_what_the_file_says(browser: Any, run: Path) -> None:
    page, rows = opened(browser, run), rows_of(run)
    while page.find_element("id", "more").is_displayed():
        page.find_element("id", "more").click()
    heads = [one.text for one in page.find_elements("css selector", "#images thead th")]
    shown = [dict(zip(heads, row, strict=True)) for row in cells(page, "images")]
    assert len(shown) == len(rows) == 120
    for row, own in zip(shown, rows, strict=True):
        for name in ("index", "label", "votes", "n", "status"):
            assert row[name] == own[name]
        for name, column in {
            "lower bound": "lower_np", "Neyman-Pearson": "radius_np", "DSRS": "radius_dsrs",
        }.items():  # fmt: skip
            assert row[name] == down(own[column])
        assert row["certified"] == ("yes" if float(own["radius_dsrs"]) > 0 else "no")
    for method, column in {"Neyman-Pearson": "radius_np", "DSRS": "radius_dsrs"}.items():
        mean = np.mean([float(row[column]) for row in rows])
        [found] = [row[2] for row in cells(page, "means") if row[1] == method]
        assert mean - 1e-4 < float(found) <= mean
    pictures = page.find_elements("css selector", "#images .thumbnail")
    assert len(pictures) == len(rows) and "data:image/webp" in pictures[0].value_of_css_property(
        "background-image"
    )


def test_the_slider_changes_the_accuracy_to_that_of_the_table(browser: Any, run: Path) -> None:
    page, rows = opened(browser, run), rows_of(run)
    with open(run / "results" / "tables" / "accuracy.csv") as stream:
        table = {row[0]: row[1:] for row in csv.reader(stream)}
    steps = 0
    for at, radius in ((10, "0.1"), (25, "0.25")):
        press(page, "radius", *["\ue014"] * (at - steps))  # the arrow to the right
        steps = at
        assert page.find_element("id", "at").text == f"{at / 100:.2f}"
        for j, (row, column) in enumerate(
            zip(cells(page, "accuracy"), ("radius_np", "radius_dsrs"), strict=True)
        ):
            count = sum(float(own[column]) >= float(radius) for own in rows)
            assert 0 < count < len(rows)
            assert row[3:5] == [str(count), f"{100 * count / len(rows):.1f}%"]
            share, interval = table[radius][j].split(" ")
            assert (row[4], f"({row[5]})") == (f"{share}%", interval)
        marked = page.find_elements("css selector", "#images tr.reached")
        first = rows[:100]
        assert len(marked) == sum(float(own["radius_dsrs"]) >= float(radius) for own in first)


def test_sorting_and_filters_choose_rows(browser: Any, run: Path) -> None:
    page, rows = opened(browser, run), rows_of(run)
    click_on(page, "DSRS")
    largest = sorted((float(row["radius_dsrs"]) for row in rows), reverse=True)
    heads = [one.text for one in page.find_elements("css selector", "#images thead th")]
    found = [row[heads.index("DSRS")] for row in cells(page, "images")]
    assert found == [down(str(one)) for one in largest[:100]]
    head = page.find_elements("css selector", "#images th")[heads.index("DSRS")]
    assert head.get_attribute("aria-sort") == "descending"
    click_on(page, "DSRS")
    assert head.get_attribute("aria-sort") == "ascending"
    press(page, "find", rows[7]["index"])
    place = heads.index("index")
    assert rows[7]["index"] in [row[place] for row in cells(page, "images")]
    assert all(
        rows[7]["index"] in (row[place], row[heads.index("label")]) for row in cells(page, "images")
    )
    press(page, "find", *["\ue003"] * 5)
    page.find_element("id", "reached").click()
    certified = sum(float(row["radius_dsrs"]) > 0 for row in rows)
    assert f"of {certified} images" in page.find_element("id", "count").text


@pytest.mark.parametrize("width", WIDTHS)
def test_it_needs_no_network_fits_and_has_no_errors(
    browser: Any, run: Path, width: str, tmp_path: Path
) -> None:
    page = opened(browser, run, width)
    asked = page.execute_script(
        "return performance.getEntriesByType('resource').map((r) => r.name)"
    )
    assert all(name.startswith(("data:", "file:")) for name in asked)
    wide = "return [document.documentElement.scrollWidth, window.innerWidth]"
    scroll, inner = page.execute_script(wide)
    assert scroll <= inner, f"{scroll} pixels where there are {inner}"
    for name in ("curves", "bounds", "gains"):
        chart = page.find_element("id", name)
        assert chart.find_elements("css selector", "svg.main-svg")
        assert chart.size["width"] <= inner
    for scheme in ("light", "dark"):
        page.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        ink = page.execute_script("return getComputedStyle(document.body).color")
        assert ink == {"light": "rgb(0, 0, 0)", "dark": "rgb(255, 255, 255)"}[scheme]
        assert page.save_screenshot(str(tmp_path / f"{width}-{scheme}.png"))
    wrong = [one for one in page.get_log("browser") if one["level"] == "SEVERE"]
    assert not wrong
