"""What the documents say is true: the rooms' arrows, and the examples, which are run."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from documented_commands import commands

from dsrs_jax.system.options import parse

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dsrs_jax"
LONGEST_FILE, LONGEST_EXAMPLE = 400, 20  # lines


def rooms_in_the_document() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text[text.index("## Which room may import which") :]
    return {
        room: set(others.split())
        for room, others in re.findall(r"^ {4}(\w+):[ ]*([\w ]*)$", part, flags=re.MULTILINE)
    }


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, with the names that it takes of rooms."""
    # By pattern: ast.parse fails where another thread parses too (a fault of CPython 3.11).
    text = file.read_text()
    assert not re.search(r"^\s*from \.", text, re.MULTILINE), f"{file} imports relatively"
    found = set(re.findall(r"^\s*import (dsrs_jax\.[\w.]+)", text, re.MULTILINE))
    pattern = r"^\s*from (dsrs_jax[\w.]*) import (?:\(([^)]*)\)|(.*)$)"
    for module, several, one in re.findall(pattern, text, re.MULTILINE):
        names = re.sub(r"#.*", "", several or one).split(",")
        found |= {f"{module}.{name.split()[0]}" for name in names if name.strip()}
    return found


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def test_rooms_import_what_the_document_says_and_nothing_else() -> None:
    allowed, found = rooms_in_the_document(), dict[str, set[str]]()
    for file in files():
        room = file.relative_to(PACKAGE).parts[0]
        if not room.endswith(".py"):  # __init__.py and __main__.py belong to no room
            others = {name.split(".")[1] for name in imports_of(file)} - {room}
            found.setdefault(room, set()).update(others)
    assert found == allowed


def test_the_certifier_sees_no_more_of_votes_than_their_record() -> None:
    for file in (PACKAGE / "certify").glob("*.py"):
        names = {name for name in imports_of(file) if name.startswith("dsrs_jax.votes")}
        assert all(name.startswith("dsrs_jax.votes.table.") for name in names), file


def test_what_must_run_without_jax_does() -> None:
    program = """
import sys
import dsrs_jax, dsrs_jax.proof.check, dsrs_jax.proof.kept, dsrs_jax.run.main, dsrs_jax.run.prove
assert not {"jax", "flax", "numpy", "scipy"} & set(sys.modules), "too much is imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_no_file_outgrows_one_idea() -> None:
    long = {str(f): n for f in files() if (n := len(f.read_text().splitlines())) > LONGEST_FILE}
    assert not long


def examples(document: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S)


@pytest.mark.parametrize("number", range(5))
def test_examples_of_extensions_run(number: int, tmp_path: Path) -> None:
    found = examples("docs/extending.md")
    assert len(found) == 5
    program = found[number]
    assert sum(line.strip() != "" for line in program.splitlines()) <= LONGEST_EXAMPLE
    checks = [
        "assert 0.1 < float(radius[0]) < 0.9, radius",
        "assert image.shape == (8, 8, 1) and label in (0, 1)",
        "assert logits.shape == (3, 10)",
        "assert (radius == same).all() and 0 < radius[1] < radius[0] < 2",
        "assert model is not None",
    ]
    run(program + "\n" + checks[number], tmp_path)


IMAGES = """
import numpy as np
images, labels = np.full((2, 28, 28, 1), 0.6, np.float32), np.array([0, 1])
"""


def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    [program] = examples("README.md")
    model = """
import jax
model = lambda images: jax.nn.one_hot((images.mean((1, 2, 3)) > 0.5).astype(int), 2) * 9.0
"""
    check = "assert certificates.radius[0] == 0.0 < 0.5 < certificates.radius[1], certificates"
    run(f"{IMAGES}{model}{program}\n{check}", tmp_path)


def test_the_steps_in_python_run(tmp_path: Path) -> None:
    [program] = examples("docs/certificates.md")
    model = """
from dsrs_jax import models
metadata = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10, 0.5, 380.0, 2.0)
models.save_model("runs/mnist_43/model", models.build("mnist_43", seed=0), metadata)
"""
    shorter = program.replace("50_000", "200")
    run(f"{IMAGES}{model}{shorter}\nassert certificates.radius.shape == (2,)", tmp_path)


def test_the_example_of_models_in_python_runs(tmp_path: Path) -> None:
    [program] = [one for one in examples("docs/models.md") if not one.startswith("# net.py")]
    run(f"{program}\nassert certificates.radius.shape == (4,)", tmp_path)


@pytest.mark.parametrize("words", commands("docs/reproduce.md"), ids=" ".join)
def test_the_commands_that_reproduce_the_paper_are_taken(words: list[str]) -> None:
    settings = importlib.import_module(f"dsrs_jax.run.{words[0]}").Settings
    assert parse(settings, words[1:], program=words[0], description="") is not None


def run(program: str, folder: Path) -> None:
    keep = "from dsrs_jax.system.compilation import keep_compiled\nkeep_compiled()\n"
    done = subprocess.run(
        [sys.executable, "-c", keep + program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "document", ["README.md", *(f"docs/{d.name}" for d in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(document: str) -> None:
    text, folder = (ROOT / document).read_text(), (ROOT / document).parent
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (folder / target).exists(), f"{document}: {target}"
    for target in re.findall(r"`((?:docs|tests|benchmarks|scripts|dsrs_jax)/[\w/.]+\.\w+)`", text):
        assert (ROOT / target).exists(), f"{document}: {target}"
