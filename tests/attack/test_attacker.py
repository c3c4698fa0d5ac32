"""Attacks whose end is known: a linear classifier's smoothed answer changes at its plane."""

import dataclasses
import json
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dsrs_jax import generalized_gaussian
from dsrs_jax.attack import (
    Attack,
    Attacker,
    Outcome,
    Target,
    as_record,
    attacker,
    problem_of,
    rows_of,
)
from dsrs_jax.system.errors import UserError

SHAPE = (8, 8, 1)
SIGMA = 0.25
LAW = generalized_gaussian(64, SIGMA, 20.0)
WEIGHTS = np.random.default_rng(0).normal(size=64).astype(np.float32)
DUAL = {"l2": np.linalg.norm(WEIGHTS), "linf": np.abs(WEIGHTS).sum()}
SHORT = Attack(steps=40, samples=16, votes=200, step_size=0.05, recheck=4_000)


def plane(images: jax.Array) -> jax.Array:
    """Class 1 where the weights' product with the image, centred, is positive."""
    heights = (images - 0.5).reshape(len(images), -1) @ jnp.asarray(WEIGHTS)
    return jnp.stack([jnp.zeros_like(heights), heights], axis=1)


def images(norm: str, distances: list[float]) -> list[np.ndarray]:
    """Each so far from the plane, on the side of class 1 where that is positive."""
    random, found = np.random.default_rng(1), []
    for one in distances:
        image = random.uniform(0.3, 0.7, SHAPE).astype(np.float32)
        height = float((image - 0.5).ravel() @ WEIGHTS)
        along = (WEIGHTS / np.linalg.norm(WEIGHTS) ** 2).reshape(SHAPE)
        found.append(image + (one * DUAL[norm] - height) * along)
    return found


def attacked(attack: Attack, targets: list[Target], **more: int) -> list[Outcome]:
    outcomes = Attacker(plane, LAW, attack, **more).attack_all(targets)
    return sorted(outcomes, key=lambda outcome: outcome.index)


@pytest.mark.parametrize(("norm", "starts"), [("l2", 0), ("l2", 2), ("linf", 0)])
def test_an_image_is_broken_where_the_plane_is_in_reach_and_only_there(
    norm: str, starts: int
) -> None:
    away = 0.3 if norm == "l2" else 0.05
    radii = (0.8 * away, 1.4 * away, 2.0 * away)
    # Of class 1, of class 0, and one that is wrong.
    targets = [
        Target(index, image, label, radii)
        for index, image, label in zip(
            (3, 5, 9), images(norm, [away, -away, away]), (1, 0, 0), strict=True
        )
    ]
    attack = dataclasses.replace(SHORT, norm=norm, random_starts=starts)
    one, other, wrong = attacked(attack, targets)
    for outcome in (one, other):
        assert outcome.right
        inner, outer = outcome.tries  # the third ball holds what broke it in the second
        assert not inner.broken and inner.steps == attack.steps * max(1, starts)
        assert outer.broken and outer.voted and outer.perturbation is not None
        assert 0.95 * away < outer.perturbation <= radii[1]
        assert outer.recheck is not None and outer.recheck.label < outer.recheck.other
        assert sum(outer.recheck) == attack.recheck
        records = [json.loads(json.dumps(as_record(outcome)))]
        assert problem_of(radii, records[0]) is None
        rows = list(rows_of(radii, records))
        assert [row["broken"] for row in rows] == [0, 1, 1]
        assert rows[2]["broken_within"] == radii[1] and rows[2]["perturbation"] <= radii[1]
    assert not wrong.right and wrong.tries == []


def test_results_depend_neither_on_the_batch_nor_on_the_images_beside() -> None:
    away = np.linspace(0.05, 0.6, 13).tolist()
    targets = [
        Target(7 * number, image, 1, (0.2, 0.4)) for number, image in enumerate(images("l2", away))
    ]
    whole = [as_record(one) for one in attacked(SHORT, targets)]
    assert [as_record(one) for one in attacked(SHORT, targets, batch=2)] == whole
    part = [as_record(one) for one in attacked(SHORT, targets[5:8][::-1])]
    assert part == whole[5:8]
    assert [as_record(one) for one in attacked(SHORT, targets, seed=1)] != whole


def test_steps_in_a_compiled_loop_are_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on accelerators: several steps a call, in which what is done waits for the others."""
    targets = [
        Target(index, image, 1, (0.2, 0.4))
        for index, image in enumerate(images("l2", [0.1, 0.3, 0.35, 0.6]))
    ]
    one_by_one = [as_record(one) for one in attacked(SHORT, targets)]
    monkeypatch.setattr(attacker, "_LONGEST_ON_A_CPU", 7)
    assert [as_record(one) for one in attacked(SHORT, targets)] == one_by_one


@pytest.mark.parametrize("clip", [True, False])
def test_images_stay_among_images_only_where_that_is_asked_for(clip: bool) -> None:
    # White where the weights would have it whiter still: towards the plane most pixels may go.
    image = np.where(WEIGHTS > 0, 0.04, 0.96).astype(np.float32).reshape(SHAPE)
    attack = dataclasses.replace(SHORT, clip=clip)
    (outcome,) = attacked(attack, [Target(0, image, 0, (8.0,))])
    (found,) = outcome.tries
    assert found.broken and found.image is not None
    assert bool(np.all((found.image >= 0.0) & (found.image <= 1.0))) is clip


def test_a_check_that_fresh_draws_do_not_confirm_does_not_end_the_attack() -> None:
    """One draw a check is wrong sooner or later; the plane is out of reach."""
    [image] = images("l2", [0.3])
    attack = dataclasses.replace(SHORT, votes=1)
    [outcome] = attacked(attack, [Target(0, image, 1, (0.1,))])
    assert outcome.right  # by its one draw of this seed
    [found] = outcome.tries
    assert found.voted and not found.broken and found.steps == attack.steps
    alone = dataclasses.replace(attack, recheck=0)
    [outcome] = attacked(alone, [Target(0, image, 1, (0.1,))])
    assert outcome.tries[0].broken and outcome.tries[0].recheck is None


def test_steps_without_a_gradient_are_counted_and_change_nothing() -> None:
    def flat(images: jax.Array) -> jax.Array:
        return jax.nn.one_hot((images.mean((1, 2, 3)) > 0.5).astype(jnp.int32), 2) * 9.0

    image = np.full(SHAPE, 0.9, np.float32)
    (outcome,) = Attacker(flat, LAW, SHORT).attack_all([Target(0, image, 1, (1.0,))])
    (found,) = outcome.tries
    assert found.idle == found.steps == SHORT.steps and not found.voted


def test_fixed_draws_and_the_mean_loss_break_it_too() -> None:
    [image] = images("l2", [0.3])
    attack = dataclasses.replace(SHORT, fixed_draws=True, loss="mean-loss")
    [outcome] = attacked(attack, [Target(0, image, 1, (0.5,))])
    assert outcome.tries[0].broken


def _loops(images: jax.Array) -> jax.Array:
    return jax.lax.while_loop(lambda x: jnp.sum(x) < 0.0, lambda x: x + 1.0, plane(images))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: list(Attacker(_loops, LAW, SHORT).attack_all(
            [Target(0, np.zeros(SHAPE, np.float32), 0, (1.0,))])), "JAX cannot differentiate"),
        (lambda: Attacker(plane, LAW, SHORT, batch=0), "batch must be positive"),
        (lambda: Attacker(plane, LAW, SHORT, seed=-1), "seed must lie in"),
        (lambda: Attack(norm="l1"), "unknown 'l1'; known: l2, linf"),
        (lambda: Attack(votes=0), "votes must be a whole number of at least 1"),
        (lambda: Attack(step_size=0.0), "step_size must be positive"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(make: Callable[[], object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        make()


def test_an_image_that_few_draws_call_wrong_is_looked_at_again() -> None:
    """At p = 0.55 half a dozen draws often say otherwise; 10,000 do not."""
    [image] = images("l2", [0.03])
    targets = [Target(index, image, 1, ()) for index in range(24)]
    few = dataclasses.replace(SHORT, votes=6, recheck=10_000)
    outcomes = attacked(few, targets)
    assert all(one.right for one in outcomes)
    assert {sum(one.clean) for one in outcomes} == {6, 10_000}
    alone = attacked(dataclasses.replace(few, recheck=0), targets)
    assert not all(one.right for one in alone)
