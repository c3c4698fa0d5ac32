"""`dsrs-jax attack`: it agrees with certificates, goes on where it was ended, and is reported."""

import csv
import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from certify_runs import SIGMA, HeldRun, K, finished, recorded, records_of
from commands import refused
from scipy import stats

from dsrs_jax import Protocol, certify_table, data, generalized_gaussian, models
from dsrs_jax.attack import Attack, Attacker, Target
from dsrs_jax.run.attack import Settings
from dsrs_jax.run.finished import read_run
from dsrs_jax.run.main import main
from dsrs_jax.run.report_attack import Shown, read_attack, show
from dsrs_jax.system.options import parse
from dsrs_jax.votes import RecordFolder, count_votes

Once = Callable[[str, Callable[[Path], None]], Path]
ALPHA = 0.001
FAR = 3.0
STRONG = Attack(steps=40, samples=32, votes=100, step_size=0.05, recheck=10_000)
QUICK = ["--seed", "0", "--samples", "32", "--votes", "32", "--recheck", "1000", "--steps", "20",
         "--step-size", "0.1"]  # fmt: skip
SHORT = ["--skip", "20", "--eps", "2", "0.4", *QUICK]
RADII, IMAGES = [0.4, 2.0], 18


def nearest_mean() -> Callable[[jax.Array], jax.Array]:
    """A linear classifier of digits: its certificates lack little."""
    training = data.in_memory(data.load("digits", "train"))
    flat = training.images.reshape(-1, 64)
    means = np.stack([flat[training.labels == label].mean(axis=0) for label in range(10)])
    away = np.sum(means**2, axis=1)[None] / 2
    return lambda images: 10 * (images.reshape(len(images), -1) @ means.T - away)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "k"), [("network", K), ("linear", 0.0)])
def test_no_attack_succeeds_inside_a_certified_radius(kind: str, k: float, model: str) -> None:
    """Each image is attacked at its certified radius, and at FAR."""
    classifier = models.load_model(Path(model)) if kind == "network" else nearest_mean()
    law = generalized_gaussian(64, SIGMA, k)
    dataset = data.in_memory(data.load("digits"))
    images, labels = dataset.images[::15], dataset.labels[::15]
    inside = [law.truncated(0.5)]
    table = count_votes(classifier, images, labels, law, 4_000, inside=inside, grid=dataset.grid)
    certified = certify_table(table, Protocol(ALPHA)).radius
    targets = [
        Target(index, image, int(label), (radius, FAR) if radius else (FAR,))
        for index, (image, label, radius) in enumerate(
            zip(images, labels, certified.tolist(), strict=True)
        )
    ]
    outcomes = list(Attacker(classifier, law, STRONG, grid=dataset.grid).attack_all(targets))
    count = int(np.sum(certified > 0.0))
    assert count > len(images) / 4
    # A certificate may fail with probability ALPHA, and a confirmed break with its own.
    failed = sum(
        not outcome.right or any(one.broken and one.radius < FAR for one in outcome.tries)
        for outcome in outcomes
        if certified[outcome.index] > 0.0
    )
    assert failed <= stats.binom.ppf(1 - 1e-6, count, ALPHA + STRONG.alpha)
    right = [outcome for outcome in outcomes if outcome.right]
    far = sum(outcome.tries[-1].broken for outcome in right)
    assert far > 0.8 * len(right)  # the attack is one


def words_of(out: Path, model: str) -> list[str]:
    return ["attack", "--model", model, *SHORT, "--out", str(out)]


@pytest.fixture(scope="module")
def done(once: Once, model: str) -> Path:
    """The folder of an attack that nothing happened to."""

    def make(folder: Path) -> None:
        assert main(words_of(folder, model)) == 0

    return once("attack", make)


@pytest.fixture(scope="module")
def run(once: Once, model: str) -> Path:
    """A run of certify of the same images."""
    return finished(once, model)


def rows_of(file: Path) -> list[dict[str, str]]:
    with open(file) as stream:
        return list(csv.DictReader(stream))


def with_records(out: Path, done: Path, records: Iterable[dict[str, Any]]) -> Path:
    """The folder of such an attack with these records alone."""
    (out / "votes").mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "command.json"):
        shutil.copy(done / name, out)
    text = "".join(json.dumps(record) + "\n" for record in records)
    (out / "votes" / "00000000-00000000-1.0.jsonl").write_text(text)
    return out


def test_every_image_has_a_row_for_each_ball(done: Path) -> None:
    found = rows_of(done / "attack.csv")
    assert [row["index"] for row in found] == [str(20 * i) for i in range(IMAGES) for _ in RADII]
    for near, far in zip(found[::2], found[1::2], strict=True):
        assert [float(row["radius"]) for row in (near, far)] == RADII
        if near["clean"] == "wrong":
            assert near["broken"] == far["broken"] == ""
            continue
        assert near["broken"] <= far["broken"] and near["voted"] <= far["voted"]
        assert (far["broken"] == "1") == (far["p_value"] != "" and float(far["p_value"]) <= 0.001)
    assert sum(row["broken"] == "1" for row in found[1::2]) > IMAGES / 2
    config = json.loads((done / "config.json").read_text())
    assert [config[name] for name in ("draws", "grid", "alpha")] == ["sound", 240, 0.001]


@pytest.mark.process
def test_an_attack_that_is_killed_continues(done: Path, model: str, tmp_path: Path) -> None:
    """Begun on two devices with another batch."""
    out = tmp_path / "out"
    words = [*words_of(out, model), "--batch", "2"]
    HeldRun(words, tmp_path / "gate", 2, "os.rename", devices=2).kill()
    assert 0 < recorded(out) < IMAGES and not (out / "attack.csv").exists()
    assert main(words_of(out, model)) == 0
    assert (out / "attack.csv").read_bytes() == (done / "attack.csv").read_bytes()


def test_an_attack_continues_with_its_own_settings_and_images_alone(
    done: Path, run: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, *records = records_of(done).values()
    cut = {**records[4], "tries": []}  # is no record: it was right, and no ball was tried
    out = with_records(tmp_path / "out", done, [first, *records[:4], cut])
    assert main(words_of(out, model)) == 0
    said = capsys.readouterr().out
    assert "Damaged: " in said and f"5 of {IMAGES} images were done before" in said
    assert (out / "attack.csv").read_bytes() == (done / "attack.csv").read_bytes()
    refused(capsys, [*words_of(out, model), "--clip"], "was made with clip = false, not true")
    refused(capsys, words_of(run, model), "give the same settings or another --out")
    other = with_records(tmp_path / "other", done, [first | {"image": "0" * 16}])
    refused(capsys, words_of(other, model), f"index {first['index']} is another image")


def test_the_options_say_how_images_are_attacked() -> None:
    words = "--norm linf --method pgd --steps 9 --samples 8 --votes 7 --recheck 6 --step-size 0.5"
    words += " --random-starts 4 --loss mean-loss --fixed-draws --clip --eps 0.2 0.1"
    words += " --draws float32"
    settings = parse(Settings, words.split(), program="attack", description="")
    assert settings.attack.attack() == Attack(
        norm="linf", steps=9, samples=8, votes=7, recheck=6, step_size=0.5, random_starts=4,
        loss="mean-loss", fixed_draws=True, clip=True,
    )  # fmt: skip
    assert settings.attack.radii() == (0.1, 0.2) and settings.draws == "float32"
    assert parse(Settings, [], program="attack", description="").attack.attack() == Attack()


def test_the_report_has_attacked_beside_certified_accuracy(
    done: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), str(done), "--out", str(tmp_path)]) == 0
    assert f"{done.name} broke no image inside the radius that" in capsys.readouterr().out
    found = rows_of(tmp_path / "tables" / "attacked.csv")
    assert [row["radius"] for row in found] == ["0", "0.4", "2"]
    attacked = rows_of(done / "attack.csv")
    radii = np.array([float(row["radius_dsrs"]) for row in rows_of(run / "certificates.csv")])
    for place, row in enumerate(found):
        confirmed = float(row[f"{done.name}: confirmed"])
        certified, radius = float(row["DSRS, certified"]), float(row["radius"])
        at = attacked[max(0, place - 1) :: 2]
        left = [one["clean"] == "right" and (place == 0 or one["broken"] == "0") for one in at]
        assert confirmed == pytest.approx(100 * np.mean(left), abs=0.051)
        assert certified == pytest.approx(100 * np.mean((radii >= radius) & (radii > 0)), abs=0.051)
        assert certified <= confirmed and float(row[f"{done.name}: by its check"]) <= confirmed
    assert (tmp_path / "figures" / "attacked.png").read_bytes().startswith(b"\x89PNG")
    assert "attacked: " in (tmp_path / "report.html").read_text()
    assert main(["report", str(done), "--out", str(tmp_path / "alone")]) == 0
    assert "report.html" not in capsys.readouterr().out


def test_a_second_attack_in_a_folder_is_refused_while_the_first_is_at_work(
    done: Path, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = with_records(tmp_path / "out", done, [])
    problem = "another run is writing in"
    with RecordFolder(out, json.loads((done / "config.json").read_text())):
        refused(capsys, words_of(out, model), problem)
    assert not (out / "attack.csv").exists()


def test_an_attack_of_another_norm_is_not_compared(done: Path, run: Path, tmp_path: Path) -> None:
    out = with_records(tmp_path / "linf", done, records_of(done).values())
    config = json.loads((out / "config.json").read_text()) | {"norm": "linf", "random_starts": 2}
    (out / "config.json").write_text(json.dumps(config))
    shown = show([read_attack(out)], [read_run(run)])
    [table] = shown.tables
    assert table.name == "attacked-linf" and "PGD, 2 random starts, ℓ∞" in table.title
    assert not shown.certified and "certified" not in " ".join(table.header)


def test_half_an_attack_and_a_contradiction_are_told_loudly(
    done: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    radii = [float(row["radius_dsrs"]) for row in rows_of(run / "certificates.csv")]
    records = [record for _, record in sorted(records_of(done).items())]
    # Images that were broken far out are said to have been broken inside their certified radii.
    victims = [
        (number, record)
        for number, (record, radius) in enumerate(zip(records, radii, strict=True), start=1)
        if radius > 0.1 and record["tries"] and record["tries"][-1]["broken"]
    ][:2]
    number = victims[-1][0]
    half, config = tmp_path / "half", json.loads((done / "config.json").read_text())

    def shown(p_value: float, among: int = 2, image: str = "", **settings: Any) -> Shown:
        for _, victim in victims[:among]:
            found = {"perturbation": 0.09, "recheck": [100, 900], "p_value": p_value}
            victim["tries"][-1] |= found
        changed = [record | ({"image": image} if image else {}) for record in records[:number]]
        with_records(half, done, changed)
        (half / "config.json").write_text(json.dumps(config | settings))
        return show([read_attack(half)], [read_run(run)])

    # Of other pixels or labels it is not said; nor of another classifier's votes; nor where of so
    # many images some may have such votes.
    told = f"half: Half finished: {number} of {IMAGES} images."
    named = f"index {victims[0][1]['index']} (perturbation 0.0900, certified radius"
    for found, sentence in (
        (shown(0.0, image="another"), "not known to be of the same images"),
        (shown(0.0, draws="float32", grid=None), "they speak of two classifiers"),
        (shown(0.0009), "that chance explains among"),
    ):
        assert found.banners == [told] and sentence in " ".join(found.sentences)
    assert named in " ".join(found.sentences)
    # One certificate of so many may fail; two do not.
    _, banner = shown(0.0).banners
    assert banner.startswith(f"CONTRADICTION: half broke 2 images: {named}")
    assert main(["report", str(run), str(half), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert told in printed and banner in printed
    assert "CONTRADICTION" in (tmp_path / "out" / "report.html").read_text()
    victims[1][1]["tries"][-1] |= {"perturbation": 2.0}
    _, banner = shown(0.0, among=1).banners
    assert banner.startswith(f"half broke 1 image: {named}") and "may be such" in banner
