"""`dsrs-jax attack`: it agrees with certificates, goes on where it was ended, and is reported."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from certify_runs import SIGMA, K
from scipy import stats

from dsrs_jax import Protocol, certify_table, data, generalized_gaussian, models
from dsrs_jax.attack import Attack, Attacker, Outcome, Target
from dsrs_jax.noise import RadialLaw
from dsrs_jax.run.main import main
from dsrs_jax.votes import Sampler, count_votes

ROOT = Path(__file__).resolve().parents[2]
Once = Callable[[str, Callable[[Path], None]], Path]
ALPHA, FRESH = 0.001, 10_000
FAR = 3.0
STRONG = Attack(steps=40, samples=32, votes=100, step_size=0.05, recheck=1_000)
QUICK = ["--samples", "32", "--votes", "32", "--recheck", "1000", "--steps", "20",
         "--step-size", "0.1"]  # fmt: skip
SHORT = ["--skip", "18", "--eps", "2", "0.4", *QUICK]
RADII, IMAGES = [0.4, 2.0], 20


def inside_and_far(
    classifier: Callable[[jax.Array], jax.Array],
    law: RadialLaw,
    images: np.ndarray,
    labels: np.ndarray,
) -> tuple[list[tuple[Target, Outcome]], int]:
    """Attacks at each image's certified radius, and at FAR; and how many have a certificate."""
    table = count_votes(classifier, images, labels, law, 4_000, inside=[law.truncated(0.5)])
    certified = certify_table(table, Protocol(ALPHA)).radius
    targets = [
        Target(index, image, int(label), (radius, FAR) if radius else (FAR,))
        for index, (image, label, radius) in enumerate(
            zip(images, labels, certified.tolist(), strict=True)
        )
    ]
    found = [
        (targets[one.index], one) for one in Attacker(classifier, law, STRONG).attack_all(targets)
    ]
    return found, int(np.sum(certified > 0.0))


def hold_against_one_another(
    classifier: Callable[[jax.Array], jax.Array],
    law: RadialLaw,
    images: np.ndarray,
    labels: np.ndarray,
) -> None:
    outcomes, certified = inside_and_far(classifier, law, images, labels)
    assert certified > len(images) / 4
    failed = 0
    for target, outcome in outcomes:
        for one in outcome.tries:
            if one.broken and one.radius < FAR:
                # The attack ends where the label just loses. At the sphere, farther in the same
                # direction, fresh draws say whether it has less than half.
                assert one.image is not None and one.perturbation is not None
                farther = (1.0 - 1e-6) * one.radius / one.perturbation
                point = target.image + farther * (one.image - target.image)
                sampler = Sampler(classifier, seed=99)
                votes = sampler.start(point[None], [outcome.label], law, FRESH).result()
                failed += stats.binom.cdf(int(votes.correct[0, -1]), FRESH, 0.5) < 1e-4
    # A certificate may fail with probability ALPHA.
    assert failed <= stats.binom.ppf(1 - 1e-6, certified, ALPHA)
    right = [outcome for _, outcome in outcomes if outcome.right]
    far = sum(outcome.tries[-1].broken for outcome in right)
    assert far > 0.8 * len(right)  # the attack is one


def test_no_attack_on_digits_succeeds_inside_a_certified_radius(model: str) -> None:
    dataset = data.in_memory(data.load("digits", "test"))
    hold_against_one_another(
        models.load_model(Path(model)),
        generalized_gaussian(64, SIGMA, K),
        dataset.images[::12],
        dataset.labels[::12],
    )


def test_no_attack_on_mnist_succeeds_inside_a_certified_radius(mnist_dir: Path) -> None:
    """Of a linear classifier, least squares on noisy images: its certificates lack little."""
    training = data.in_memory(data.load("mnist", "train", str(mnist_dir)))
    law = generalized_gaussian(784, 0.5, 0.0)
    pixels = training.images[:5_000].reshape(-1, 784).astype(np.float64)
    pixels = np.append(pixels, np.ones((5_000, 1)), axis=1)
    noise = np.append(np.full(784, 5_000 * 0.25), 1.0)  # what the noise adds to the products
    weights = np.linalg.solve(
        pixels.T @ pixels + np.diag(noise), pixels.T @ np.eye(10)[training.labels[:5_000]]
    )
    matrix = jnp.asarray(30.0 * weights, jnp.float32)

    def linear(images: jax.Array) -> jax.Array:
        flat = images.reshape(len(images), -1)
        return flat @ matrix[:-1] + matrix[-1:]

    dataset = data.load("mnist", "test", str(mnist_dir))
    images, labels = zip(*(dataset[index] for index in range(0, 10_000, 500)), strict=True)
    hold_against_one_another(linear, law, np.stack(images), np.array(labels))


def attack(out: Path, model: str, *more: str) -> int:
    return main(["attack", "--model", model, *SHORT, *more, "--out", str(out)])


@pytest.fixture(scope="module")
def done(once: Once, model: str) -> Path:
    """The folder of an attack that nothing happened to."""

    def make(folder: Path) -> None:
        assert attack(folder, model) == 0

    return once("attack", make)


@pytest.fixture(scope="module")
def run(once: Once, model: str) -> Path:
    """A run of certify of the same images."""

    def make(folder: Path) -> None:
        words = ["--n", "2000", "--skip", "18", "--draws", "sound", "--out", str(folder)]
        assert main(["certify", "--model", model, *words]) == 0

    return once("attacked", make)


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "attack.csv") as stream:
        return list(csv.DictReader(stream))


def test_every_image_has_a_row_for_each_ball(done: Path) -> None:
    found = rows(done)
    assert [row["index"] for row in found] == [str(18 * i) for i in range(IMAGES) for _ in RADII]
    for near, far in zip(found[::2], found[1::2], strict=True):
        assert [float(row["radius"]) for row in (near, far)] == RADII
        if near["clean"] == "wrong":
            assert near["broken"] == far["broken"] == ""
            continue
        assert near["broken"] <= far["broken"] and near["voted"] <= far["voted"]
        for row in (near, far):
            assert (row["broken"] == "1") == (row["perturbation"] != "")
            if row["broken"] == "1":
                assert 0.0 < float(row["perturbation"]) <= float(row["broken_within"])
                assert int(row["label_votes"]) < int(row["other_votes"])
    assert sum(row["broken"] == "1" for row in found[1::2]) > IMAGES / 2


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_attack_that_was_ended_goes_on(
    number: signal.Signals, done: Path, model: str, tmp_path: Path
) -> None:
    """Begun on two devices with another batch, ended in the middle: the same results."""
    out = tmp_path / "out"
    words = ["--model", model, *SHORT, "--out", str(out), "--batch", "2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "dsrs_jax", "attack", *words],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not list((out / "votes").glob("*.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert error == "dsrs-jax attack: interrupted; the same command continues this attack\n"
    assert not (out / "attack.csv").exists()
    assert attack(out, model) == 0
    assert (out / "attack.csv").read_bytes() == (done / "attack.csv").read_bytes()


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / "tables" / f"{name}.csv") as stream:
        return list(csv.DictReader(stream))


def test_the_report_has_attacked_beside_certified_accuracy(
    done: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results"
    assert main(["report", str(run), str(done), "--out", str(out)]) == 0
    assert f"{done.name} broke no image inside the radius that" in capsys.readouterr().out
    found = table(out, "attacked")
    assert [row["radius"] for row in found] == ["0", "0.4", "2"]
    own = rows(done)
    with open(run / "certificates.csv") as stream:
        radii = np.array([float(row["radius_dsrs"]) for row in csv.DictReader(stream)])
    for place, row in enumerate(found):
        attacked, certified = float(row[f"{done.name}: confirmed"]), float(row["DSRS, certified"])
        at = own[max(0, place - 1) :: 2]
        left = [one["clean"] == "right" and (place == 0 or one["broken"] == "0") for one in at]
        assert attacked == pytest.approx(100 * np.mean(left), abs=0.051)
        radius = float(row["radius"])
        assert certified == pytest.approx(100 * np.mean((radii >= radius) & (radii > 0)), abs=0.051)
        assert certified <= attacked and float(row[f"{done.name}: by its check"]) <= attacked
    assert (out / "figures" / "attacked.png").read_bytes().startswith(b"\x89PNG")
    assert "attacked: " in (out / "report.html").read_text()


def test_half_an_attack_and_a_contradiction_are_told_loudly(
    done: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = tmp_path / "half"
    shutil.copytree(done, half)
    lines = [
        json.loads(line)
        for file in sorted((half / "votes").glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    lines = sorted(lines, key=lambda record: record["index"])
    with open(run / "certificates.csv") as stream:
        radii = [float(row["radius_dsrs"]) for row in csv.DictReader(stream)]
    # An image that was broken far out is said to have been broken inside its certified radius.
    victim = next(
        i
        for i, one in enumerate(lines)
        if radii[i] > 0.1 and one["tries"] and one["tries"][-1]["broken"]
    )
    last = lines[victim]["tries"][-1]
    last["perturbation"], last["recheck"] = 0.09, [100, 900]
    for file in (half / "votes").glob("*.jsonl"):
        file.unlink()
    kept = "".join(json.dumps(one) + "\n" for one in lines[: victim + 1])
    (half / "votes" / "00000000-00000000-1.0.jsonl").write_text(kept)
    (half / "attack.csv").unlink()
    assert main(["report", str(run), str(half), "--out", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert f"Half finished: {victim + 1} of {IMAGES} images" in said
    named = f"index {lines[victim]['index']} (perturbation 0.0900, certified radius"
    assert f"CONTRADICTION: half broke 1 image: {named}" in said
    assert "CONTRADICTION" in (tmp_path / "results" / "report.html").read_text()
    # Of other pixels or labels it is not said.
    other = dict(lines[victim], image="another")
    kept = "".join(json.dumps(one) + "\n" for one in [*lines[:victim], other])
    (half / "votes" / "00000000-00000000-1.0.jsonl").write_text(kept)
    assert main(["report", str(run), str(half), "--out", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "CONTRADICTION" not in said and "not known to be of the same images" in said
    # By votes that a label with half of the probability may have, it is none.
    lines[victim]["tries"][-1]["recheck"] = [490, 500]
    kept = "".join(json.dumps(one) + "\n" for one in lines[: victim + 1])
    (half / "votes" / "00000000-00000000-1.0.jsonl").write_text(kept)
    assert main(["report", str(run), str(half), "--out", str(tmp_path / "results")]) == 0
    said = capsys.readouterr().out
    assert "CONTRADICTION" not in said and named in said and "that chance explains" in said


def test_an_attack_alone_and_one_of_another_norm_are_reported(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, results = tmp_path / "linf", tmp_path / "results"
    words = ["--norm", "linf", "--eps", "0.2", "--method", "pgd", "--random-starts", "2", "--clip"]
    command = ["attack", "--model", model, "--skip", "60", *QUICK, *words, "--out", str(out)]
    assert main(command) == 0
    assert main(["report", str(out), "--out", str(results)]) == 0
    said = capsys.readouterr().out
    assert "PGD, 2 random starts, ℓ∞" in said and "report.html" not in said
    assert [row["radius"] for row in table(results, "attacked-linf")] == ["0", "0.2"]
    assert main(["report", str(out), "--out", str(results), "--write-log", "x.tsv"]) == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--eps", "0"], "--eps must be positive numbers"),
        (["--eps", "inf"], "--eps must be positive numbers"),
        (["--steps", "0"], "steps must be a whole number of at least 1, got 0"),
        (["--step-size", "-1"], "step_size must be positive and finite, got -1"),
        (["--method", "pgd", "--random-starts", "0"], "--random-starts must be at least 1, got 0"),
        (["--backend", "torch"], "--backend torch has no gradients in JAX; use --backend jax"),
        (["--batch", "0"], "--batch must be positive, got 0"),
        (["--model", "no/such/model"], "no such checkpoint: "),
        (["--dataset", "mnist"], "mnist needs --data-dir"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["attack", *words]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"dsrs-jax attack: {said}") and printed.err.count("\n") == 1
    assert printed.out == "" and not list(tmp_path.iterdir())


def test_folders_of_other_runs_are_refused(
    done: Path, run: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert attack(done, model, "--clip") == 2
    assert "was made with clip = false, not true" in capsys.readouterr().err
    assert attack(run, model) == 2
    assert "give the same settings or another --out" in capsys.readouterr().err
