"""What the documents say is true: the rooms' arrows, and the examples, which are run."""

import importlib
import re
from pathlib import Path

import commands
import pytest
from commands import ROOT

from dsrs_jax.system.options import parse

PACKAGE = ROOT / "dsrs_jax"
LONGEST_EXAMPLE = 20  # lines
IMAGES = """
import numpy as np
images, labels = np.full((2, 28, 28, 1), 0.6, np.float32), np.array([0, 1])
"""
FUNCTION = """
import jax
model = lambda images: jax.nn.one_hot((images.mean((1, 2, 3)) > 0.5).astype(int), 2) * 9.0
"""
SAVED = """
from dsrs_jax import models
metadata = models.ModelMetadata("mnist_43", "mnist", (28, 28, 1), 10, 0.5, 380.0, 2.0)
models.save_model("runs/mnist_43/model", models.build("mnist_43", seed=0), metadata)
"""
# What precedes the examples of a document, and what holds after each of them.
EXAMPLES = {
    "docs/extending.md": (
        "",
        "0.1 < float(radius[0]) < 0.9",
        "image.shape == (8, 8, 1) and label in (0, 1)",
        "logits.shape == (3, 10)",
        "(radius == same).all() and 0 < radius[1] < radius[0] < 2",
        "model is not None",
    ),
    "README.md": (
        IMAGES + FUNCTION,
        "certificates.radius[0] == 0 < 0.5 < certificates.radius[1]",
    ),
    "docs/certificates.md": (IMAGES + SAVED, "certificates.radius.shape == (2,)"),
    "docs/models.md": ("", "certificates.radius.shape == (4,)"),
}


def imports_of(file: Path) -> set[str]:
    """The modules of the package that a file imports, with the names that it takes of rooms."""
    # By pattern: ast.parse fails where another thread parses too (a fault of CPython 3.11).
    text = file.read_text()
    assert not re.search(r"^\s*from \.", text, re.M), f"{file} imports relatively"
    found = set(re.findall(r"^\s*import (dsrs_jax\.[\w.]+)", text, re.M))
    pattern = r"^\s*from (dsrs_jax[\w.]*) import (?:\(([^)]*)\)|(.*)$)"
    for module, several, one in re.findall(pattern, text, re.M):
        names = re.sub(r"#.*", "", several or one).split(",")
        found |= {f"{module}.{name.split()[0]}" for name in names if name.strip()}
    return found


def test_rooms_import_what_the_document_says_and_nothing_else() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    part = text[text.index("## Which room may import which") :]
    lines = re.findall(r"^ {4}(\w+):[ ]*([\w ]*)$", part, re.M)
    found = dict[str, set[str]]()
    for file in PACKAGE.rglob("*.py"):
        room = file.relative_to(PACKAGE).parts[0]
        if not room.endswith(".py"):  # __init__.py and __main__.py belong to no room
            others = {name.split(".")[1] for name in imports_of(file)} - {room}
            found.setdefault(room, set()).update(others)
    assert found == {room: set(others.split()) for room, others in lines}


def test_the_certifier_sees_no_more_of_votes_than_their_record() -> None:
    for file in (PACKAGE / "certify").glob("*.py"):
        names = {name for name in imports_of(file) if name.startswith("dsrs_jax.votes")}
        assert all(name.startswith("dsrs_jax.votes.table.") for name in names), file


@pytest.mark.process
def test_what_must_run_without_jax_does() -> None:
    program = """
import sys
import dsrs_jax, dsrs_jax.proof.check, dsrs_jax.proof.kept, dsrs_jax.run.main, dsrs_jax.run.prove
assert not {"jax", "flax", "numpy", "scipy"} & set(sys.modules), "too much is imported"
"""
    done = commands.python("-c", program)
    assert done.returncode == 0, done.stderr


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.parametrize("document", EXAMPLES)
def test_the_examples_of_the_documents_run(document: str, tmp_path: Path) -> None:
    before, *after = EXAMPLES[document]
    programs = re.findall(r"^```python\n(.*?)^```$", (ROOT / document).read_text(), re.M | re.S)
    programs = [program for program in programs if not program.startswith("# net.py")]
    text = f"import os\nos.chdir({str(tmp_path)!r})\n"
    text += "from dsrs_jax.system.compilation import keep_compiled\nkeep_compiled()\n"
    for program, condition in zip(programs, after, strict=True):
        if document == "docs/extending.md":
            assert sum(line.strip() != "" for line in program.splitlines()) <= LONGEST_EXAMPLE
        whole = f"{before}{program.replace('50_000', '200')}\nassert {condition}"
        text += f"exec({whole!r}, {{}})\n"  # each by itself
    done = commands.python("-c", text)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", commands.documented("docs/reproduce.md"), ids=" ".join)
def test_the_commands_that_reproduce_the_paper_are_taken(words: list[str]) -> None:
    settings = importlib.import_module(f"dsrs_jax.run.{words[0]}").Settings
    assert parse(settings, words[1:], program=words[0], description="") is not None


def test_links_lead_somewhere() -> None:
    for file in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = file.read_text()
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (file.parent / target).exists(), f"{file}: {target}"
        paths = r"`((?:docs|tests|benchmarks|scripts|dsrs_jax)/[\w/.]+\.\w+)`"
        for target in re.findall(paths, text):
            assert (ROOT / target).exists(), f"{file}: {target}"
