"""Attacks whose end is known: a linear classifier's smoothed answer changes at its plane."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dsrs_jax import gaussian, generalized_gaussian
from dsrs_jax.attack import Attack, Attacker, Outcome, Target, as_record, problem_of, rows_of
from dsrs_jax.system.errors import UserError

SHAPE = (8, 8, 1)
SIGMA = 0.25
LAW = generalized_gaussian(64, SIGMA, 20.0)
WEIGHTS = np.random.default_rng(0).normal(size=64).astype(np.float32)
DUAL = {"l2": np.linalg.norm(WEIGHTS), "linf": np.abs(WEIGHTS).sum()}
# Of each kind of attack one is compiled; other settings are paired over them.
SHORT = Attack(steps=40, samples=16, votes=200, step_size=0.05, recheck=10_000)
STARTS = dataclasses.replace(SHORT, random_starts=2, loss="mean-loss", fixed_draws=True)
LINF = dataclasses.replace(SHORT, norm="linf", clip=True)


def plane(images: jax.Array) -> jax.Array:
    """Class 1 where the weights' product with the image, centred, is positive.

    And, by constant logits, wherever an image's mean is above 2.
    """
    heights = (images - 0.5).reshape(len(images), -1) @ jnp.asarray(WEIGHTS)
    heights = jnp.where(images.mean((1, 2, 3)) > 2.0, 9.0, heights)
    return jnp.stack([jnp.zeros_like(heights), heights], axis=1)


def images(norm: str, distances: list[float]) -> list[np.ndarray]:
    """Each so far from the plane, on the side of class 1 where that is positive."""
    some = np.random.default_rng(1).uniform(0.3, 0.7, (len(distances), 64)).astype(np.float32)
    heights = np.array(distances, np.float32) * DUAL[norm] - (some - 0.5) @ WEIGHTS
    along = WEIGHTS / np.linalg.norm(WEIGHTS) ** 2
    return list((some + heights[:, None] * along).astype(np.float32).reshape(-1, *SHAPE))


def near(distances: list[float]) -> list[Target]:
    return [Target(7 * i, image, 1, (0.2, 0.4)) for i, image in enumerate(images("l2", distances))]


def attacked(attack: Attack, targets: list[Target], **more: int) -> list[Outcome]:
    outcomes = Attacker(plane, LAW, attack, **more).attack_all(targets)
    return sorted(outcomes, key=lambda outcome: outcome.index)


@pytest.mark.parametrize(
    "attack", [SHORT, *(pytest.param(attack, marks=pytest.mark.slow) for attack in (STARTS, LINF))]
)
def test_an_image_is_broken_where_the_plane_is_in_reach_and_only_there(attack: Attack) -> None:
    away = 0.3 if attack.norm == "l2" else 0.05
    radii = (0.8 * away, 1.4 * away, 2.0 * away)
    some = images(attack.norm, [away, -away, away])
    # Of class 1, of class 0, and one that is wrong.
    targets = [Target(3, some[0], 1, radii), Target(5, some[1], 0, radii)]
    one, other, wrong = attacked(attack, [*targets, Target(9, some[2], 0, radii)])
    for outcome in (one, other):
        assert outcome.right
        inner, outer = outcome.tries  # the third ball holds what broke it in the second
        assert not inner.broken and inner.steps == attack.steps * max(1, attack.random_starts)
        assert outer.broken and outer.voted and outer.perturbation is not None
        assert 0.95 * away < outer.perturbation <= radii[1]
        assert outer.recheck is not None and outer.recheck.label < outer.recheck.other
        assert sum(outer.recheck) == attack.recheck
        records = [json.loads(json.dumps(as_record(outcome)))]
        assert problem_of(attack, radii, records[0]) is None
        rows = list(rows_of(radii, records))
        assert [row["broken"] for row in rows] == [0, 1, 1]
        assert rows[2]["broken_within"] == radii[1] and rows[2]["perturbation"] <= radii[1]
    assert not wrong.right and wrong.tries == []


def test_results_depend_neither_on_the_batch_nor_on_the_images_beside() -> None:
    targets = near(np.linspace(0.05, 0.6, 13).tolist())
    whole = [as_record(one) for one in attacked(SHORT, targets)]
    assert [as_record(one) for one in attacked(SHORT, targets, batch=2)] == whole
    part = [as_record(one) for one in attacked(SHORT, targets[5:8][::-1])]
    assert part == whole[5:8]
    assert [as_record(one) for one in attacked(SHORT, targets, seed=1)] != whole


@pytest.mark.slow
def test_steps_in_a_compiled_loop_are_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on accelerators: several steps a call, in which what is done waits for the others."""
    for one in (targets := near([0.1, 0.3, 0.35, 0.6])):
        one.image[:] = np.round(255 * one.image) / 255
    one_by_one = [as_record(one) for one in attacked(SHORT, targets, grid=255)]
    monkeypatch.setattr("dsrs_jax.attack.attacker._LONGEST_ON_A_CPU", 7)
    assert [as_record(one) for one in attacked(SHORT, targets, grid=255)] == one_by_one


@pytest.mark.parametrize("attack", [SHORT, LINF], ids=["no-clip", "clip"])
def test_images_stay_among_images_only_where_that_is_asked_for(attack: Attack) -> None:
    # White where the weights would have it whiter still: towards the plane most pixels may go.
    image = np.where(WEIGHTS > 0, 0.04, 0.96).astype(np.float32).reshape(SHAPE)
    [outcome] = attacked(attack, [Target(0, image, 0, (8.0,))])
    [found] = outcome.tries
    assert found.broken and found.image is not None
    assert bool(np.all((found.image >= 0.0) & (found.image <= 1.0))) is attack.clip


def test_a_check_that_fresh_draws_do_not_confirm_does_not_end_the_attack() -> None:
    """Just out of reach of the plane, where p = 0.53, some check of 200 votes is wrong."""
    target = Target(0, images("l2", [0.12])[0], 1, (0.1,))
    [outcome] = attacked(SHORT, [target])
    [found] = outcome.tries
    assert outcome.right and found.voted and not found.broken and found.steps == SHORT.steps
    [outcome] = attacked(dataclasses.replace(SHORT, recheck=0), [target])
    assert outcome.tries[0].broken and outcome.tries[0].recheck is None


def test_an_image_that_few_draws_call_wrong_is_looked_at_again() -> None:
    """At p = 0.55 half a dozen draws often say otherwise; 10,000 do not."""
    [image] = images("l2", [0.03])
    targets = [Target(index, image, 1, ()) for index in range(24)]
    few = dataclasses.replace(SHORT, votes=6)
    outcomes = attacked(few, targets)
    assert all(one.right for one in outcomes)
    assert {sum(one.clean) for one in outcomes} == {6, few.recheck}
    alone = attacked(dataclasses.replace(few, recheck=0), targets)
    assert not all(one.right for one in alone)


def coin(images: jax.Array) -> jax.Array:
    """Class 1 with probability 0.51 under noise, wherever it is; of no gradient."""
    heads = (jnp.sum(images, axis=(1, 2, 3)) * 1000.0) % 1.0 < 0.51
    return jnp.stack([jnp.zeros_like(heads), heads], axis=1).astype(jnp.float32)


def test_of_images_that_are_not_broken_no_more_are_confirmed_than_alpha_says() -> None:
    """Of 0.51 against 0.49 a third of all fresh looks favour the wrong class, at each image one."""
    attack = Attack(steps=30, samples=1, votes=20, recheck=200, alpha=0.2)
    targets = [Target(index, np.zeros((2, 2, 1), np.float32), 1, (0.1,)) for index in range(100)]
    outcomes = list(Attacker(coin, gaussian(4, 1.0), attack).attack_all(targets))
    assert all(not one.right or one.tries[0].voted for one in outcomes)
    wrong = sum(not one.right or one.tries[-1].broken for one in outcomes)
    assert wrong <= stats.binom.ppf(1 - 1e-6, len(targets), attack.alpha)


def test_steps_without_a_gradient_are_counted_and_change_nothing() -> None:
    [outcome] = attacked(SHORT, [Target(0, np.full(SHAPE, 9.0, np.float32), 1, (1.0,))])
    [found] = outcome.tries
    assert found.idle == found.steps == SHORT.steps and not found.voted


def on_the_grid(images: jax.Array) -> jax.Array:
    """Class 1 of images on the grid of 1/255 alone."""
    cells = images * 255.0
    on = jnp.all(jnp.abs(cells - jnp.round(cells)) < 1e-3, axis=(1, 2, 3))
    return jnp.stack([~on, on], axis=1).astype(jnp.float32)


def test_what_votes_is_the_classifier_that_rounds_its_input() -> None:
    """Certified is class 1; without rounding no draw of the noise is of it."""
    targets = [Target(0, np.full(SHAPE, np.float32(3 / 255)), 1, (0.3,))]
    attack = dataclasses.replace(SHORT, steps=3)
    [outcome] = Attacker(on_the_grid, LAW, attack, grid=255).attack_all(targets)
    assert outcome.clean == (attack.votes, 0) and not outcome.tries[0].voted
    [outcome] = Attacker(on_the_grid, LAW, attack).attack_all(targets)
    assert not outcome.right and outcome.clean == (0, attack.recheck)
    assert outcome.p_value is not None and outcome.p_value <= attack.alpha


def brighter(images: jax.Array) -> jax.Array:
    """Class 1 where the first pixel is above 100.5 steps of the grid."""
    height = images[:, 0, 0, 0] * 255.0 - 100.5
    return jnp.stack([jnp.zeros_like(height), height], axis=1)


def test_an_attacked_image_keeps_its_place_between_the_grid_s_points() -> None:
    """The one step there is has the first pixel at 100.7, where noise of 0.4 is still seen."""
    attack = Attack(norm="linf", steps=1, samples=8, step_size=1.0, recheck=40_000)
    image = np.full(SHAPE, 100.0 / 255, np.float32)
    attacker = Attacker(brighter, gaussian(64, 0.4 / 255), attack, grid=255)
    [outcome] = attacker.attack_all([Target(0, image, 0, (0.7 / 255,))])
    [found] = outcome.tries
    assert found.broken and found.recheck is not None and found.perturbation is not None
    assert 0.69 < 255 * found.perturbation <= 0.7
    expected = attack.recheck * stats.norm.sf((0.5 - 0.7) / 0.4)
    assert abs(found.recheck.other - expected) < 5 * np.sqrt(attack.recheck) / 2


def _loops(images: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 0.0, lambda x: x + 1.0, plane(images))


def test_wrong_settings_are_refused() -> None:
    target = Target(0, np.zeros(SHAPE, np.float32), 0, (1.0,))
    eleventh = dataclasses.replace(target, index=5, label=10)
    between = dataclasses.replace(target, image=np.full(SHAPE, 0.3, np.float32))

    def attempt_at(classifier: Callable[[jax.Array], jax.Array], target: Target) -> None:
        list(Attacker(classifier, LAW, SHORT, grid=255).attack_all([target]))

    attempts: dict[str, Callable[[], object]] = {
        "JAX cannot differentiate": lambda: attempt_at(_loops, target),
        "has 1 class, of which every image is; of the logit z of a sigmoid make two": lambda: (
            attempt_at(lambda images: plane(images)[:, :1], target)
        ),
        "returns shape \\(2,\\) for 2 images": lambda: attempt_at(
            lambda images: plane(images)[:, 0], target
        ),
        "index 5 has label 10; the classifier's 2 classes": lambda: attempt_at(plane, eleventh),
        "no multiples of 1/255": lambda: attempt_at(plane, between),
        "batch must be positive": lambda: Attacker(plane, LAW, SHORT, batch=0),
        "seed must lie in": lambda: Attacker(plane, LAW, SHORT, seed=-1),
        "unknown 'l1'; known: l2, linf": lambda: Attack(norm="l1"),
        "votes must be a whole number of at least 1": lambda: Attack(votes=0),
        "step_size must be positive": lambda: Attack(step_size=0.0),
        "alpha must lie in": lambda: Attack(alpha=1.0),
    }
    for message, attempt in attempts.items():
        with pytest.raises(UserError, match=message):
            attempt()
