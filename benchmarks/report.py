"""A report of 10,000 images: seconds, memory, size of the page, seconds until it is drawn.

    python benchmarks/report.py MNIST_DIR [--images 10000]

The counts are random; the images are MNIST's. The page is opened in headless Chromium, where there
is one with chromedriver and selenium.
"""

import argparse
import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from dsrs_jax import Protocol, VoteTable, certify_table, data, generalized_gaussian
from dsrs_jax.proof import schema
from dsrs_jax.run.main import main as dsrs_jax

N = 50_000


def made(folder: Path, directory: Path, images: int) -> None:
    """A finished run with random counts."""
    law = generalized_gaussian(784, 0.5, 380.0)
    inside = law.truncated(0.8)
    random = np.random.default_rng(0)
    right = 1.0 - random.exponential(0.05, images).clip(0.0, 0.6)
    draws = np.array([N, N * 8 // 10])
    votes = random.binomial(draws, np.stack([right, np.sqrt(right)], axis=1))
    labels = data.load("mnist", "test", directory).labels[:images]
    counts = VoteTable.from_counts([law, inside], votes, draws, label=labels)
    (folder / "certificates.csv").write_text(
        schema.text(schema.columns(certify_table(counts, Protocol(0.001))))
    )
    (folder / "config.json").write_text('{"dataset": "mnist", "split": "test"}')
    command = f"dsrs-jax certify --dataset mnist --data-dir {directory} --model none"
    said = {"command": command, "images": images, "image_shape": [28, 28, 1]}
    (folder / "command.json").write_text(json.dumps(said))


def opened(page: Path) -> float | None:
    """Seconds until the page is drawn; None without a browser."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if chromium is None or driver is None:
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.add_argument("--headless=new")
    options.add_argument("--no-sandbox")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.get("data:text/html,begun")
    begun = time.perf_counter()
    browser.get(page.as_uri())  # may return before the scripts have run
    while not browser.execute_script("return !!document.querySelector('#images td')"):
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    browser.quit()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, out = Path(folder) / "run", Path(folder) / "results"
        run.mkdir()
        made(run, options.directory, options.images)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begun = time.perf_counter()
        if dsrs_jax(["report", str(run), "--out", str(out)]) != 0:
            sys.exit(1)
        seconds = time.perf_counter() - begun
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        page = out / "report.html"
        drawn = opened(page)
        print(
            f"{options.images:,} images: report {seconds:.1f} s, at most {peak / 2**20:.2f} GiB "
            f"({before / 2**20:.2f} before it); page {page.stat().st_size / 1e6:.1f} MB, drawn in "
            + ("?" if drawn is None else f"{drawn:.1f} s")
        )


if __name__ == "__main__":
    main()
