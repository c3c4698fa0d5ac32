"""Votes: what they are, and what they do not depend on."""

import inspect
import itertools
import json

import commands
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Array
from scipy import stats

from dsrs_jax import data, models, noise
from dsrs_jax.data import Example
from dsrs_jax.noise import sound
from dsrs_jax.system.errors import UserError
from dsrs_jax.votes import Sampler, State, count_classes, count_votes, kernel
from dsrs_jax.votes import sampler as samplers

LAW = noise.generalized_gaussian(64, 0.5, 28)
INSIDE = [LAW.truncated(b) for b in (0.3, 0.8)]
CUTOFFS = [law.cutoff for law in INSIDE if law.cutoff is not None]
GRIDS = [240, pytest.param(None, marks=pytest.mark.slow)]  # sound draws, and float32 ones
ONE = np.full((1, 8, 8, 1), 0.6, np.float32)


def half_space(images: Array) -> Array:
    """Class 1 where the first pixel is above 1/2: its probability is known exactly."""
    first = images[:, 0, 0, 0]
    return jnp.stack([0.5 - first, first - 0.5], axis=1)


W = np.random.default_rng(0).normal(size=(64, 7)).astype(np.float32)
CELLS = np.random.default_rng(1).integers(0, 241, (3, 8, 8, 1))
IMAGES = CELLS.astype(np.float32) / np.float32(240)


def linear(images: Array) -> Array:
    return images.reshape(len(images), -1) @ W


def digits_cnn() -> models.Classifier:
    metadata = models.ModelMetadata("digits_cnn", "digits", (8, 8, 1), 10, 0.5, 28.0, 2.0)
    return models.Classifier.from_model(models.build("digits_cnn", seed=0), metadata)


@pytest.mark.parametrize("grid", GRIDS)
def test_votes_have_the_probability_of_the_law_inside_every_cutoff(grid: int | None) -> None:
    n = 40_000
    counted = count_votes(
        half_space, ONE.repeat(2, axis=0), [1, 0], LAW, n, inside=INSIDE, seed=3, grid=grid
    )
    assert counted.names == ("p", "inside_0.3", "inside_0.8") and counted.laws == (LAW, *INSIDE)
    assert counted.draws[:, 0].tolist() == [n, n]
    # An independent sample of the first coordinate, from SciPy: radius times cosine.
    random = np.random.default_rng(0)
    level = stats.gamma(LAW.shape).rvs(1_000_000, random_state=random)
    cosine = 2 * stats.beta(31.5, 31.5).rvs(1_000_000, random_state=random) - 1
    first = LAW.scale * np.sqrt(level) * cosine
    above = (first if grid is None else np.rint(first * grid) / grid) + 0.6 > 0.5
    for j, law in enumerate(counted.laws):
        assert isinstance(law, noise.RadialLaw)
        quantile = law.quantile or 1.0
        drawn, votes = counted.draws[:, j], counted.votes[:, j]
        # Two images are tried: 4.5 standard errors fail once in 10^5 runs of a right program.
        assert np.all(np.abs(drawn - n * quantile) <= 4.5 * np.sqrt(n * quantile * (1 - quantile)))
        share = above[level <= (law.cutoff or np.inf)].mean()
        spread = 5 * np.sqrt(share * (1 - share) / drawn.min())
        assert np.all(np.abs(votes / drawn - [share, 1 - share]) < spread)
    # A sampler counts inside the cutoffs first, and all draws last.
    sampler = Sampler(half_space, cutoffs=CUTOFFS, seed=3, grid=grid)
    plain = sampler.start(ONE.repeat(2, axis=0), [1, 0], LAW, n).result()
    np.testing.assert_array_equal(plain.draws, counted.draws[:, [1, 2, 0]])
    np.testing.assert_array_equal(plain.correct, counted.votes[:, [1, 2, 0]])


@pytest.mark.parametrize("grid", GRIDS)
def test_votes_depend_on_seed_image_law_and_number_of_a_draw_alone(
    grid: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    n, labels = 2100, np.array([1, 4, 2])

    def count(rows: list[int], n: int = n, **options: int) -> np.ndarray:
        options = {
            "inside": INSIDE,
            "grid": grid,
            "seed": 0,
            "indices": np.multiply(rows, 5),
            **options,
        }
        table = count_votes(linear, IMAGES[rows], labels[rows], LAW, n, **options)
        assert table.index.tolist() == options["indices"].tolist()
        assert table.label.tolist() == labels[rows].tolist()
        return np.stack([table.draws, table.votes], axis=-1)

    straight = count([0, 1, 2])
    assert np.all(straight[..., 1].min(axis=1) > 0)
    assert len({tuple(row) for row in straight[..., 0].tolist()}) == 3  # noise of their own
    np.testing.assert_array_equal(count([2, 0], batch=2048), straight[[2, 0]])
    # Further draws go on where the first ended, within a tile.
    parts = count([0, 1, 2], 1100, batch=1) + count([0, 1, 2], 1000, first=1100)
    np.testing.assert_array_equal(parts, straight)
    top = 2**31 - 1 - n, 2**32 - 1  # the last draws and the last seed are drawn as any other
    parts = [count([0], m, first=top[0] + k, seed=top[1]) for k, m in ((0, 1100), (1100, 1000))]
    np.testing.assert_array_equal(sum(parts), count([0], first=top[0], seed=top[1]))
    # In two devices' parts: an image's tiles are cut between them.
    share_out = kernel.share_out
    with monkeypatch.context() as patch:
        patch.setattr(samplers, "share_out", lambda images, _, *ends: share_out(images, 2, *ends))
        np.testing.assert_array_equal(count([0, 1, 2]), straight)
    # Whatever the process has set.
    with jax.default_prng_impl("rbg"), jax.threefry_partitionable(False):
        np.testing.assert_array_equal(count([0, 1, 2]), straight)
    assert np.any(count([0, 1, 2], seed=1) != straight)


def count_five(grid: int | None) -> list:
    """Five images, for 8 devices one call in which some are cut between two of them."""
    digits, law = data.load("digits"), noise.generalized_gaussian(64, 0.5, 28)
    images, labels = digits.images[:5], digits.labels[:5]
    counted = count_votes(
        digits_cnn(),
        images,
        labels,
        law,
        4000,
        first=500,
        inside=[law.truncated(0.3)],
        grid=grid,
        seed=0,
    )
    return [counted.draws.tolist(), counted.votes.tolist()]


@pytest.mark.process
def test_votes_do_not_depend_on_the_number_of_devices() -> None:
    program = f"""
import json, jax
from dsrs_jax import data, models, noise
from dsrs_jax.data import Example
from dsrs_jax.noise import sound
from dsrs_jax.system.compilation import keep_compiled
from dsrs_jax.votes import count_votes
keep_compiled()
{inspect.getsource(digits_cnn)}
{inspect.getsource(count_five)}
print(json.dumps([jax.device_count(), count_five(None), count_five(240)]))
"""
    done = commands.python("-c", program, devices=8)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [8, count_five(None), count_five(240)]


def test_every_law_has_its_own_draws() -> None:
    images = np.full((1, 8, 8, 1), 0.5, np.float32)
    # Sigma does not change the sign of a coordinate: equal streams would give equal votes.
    seen = {
        int(count_votes(half_space, images, [1], LAW.with_sigma(sigma), 1000).votes[0, 0])
        for sigma in (0.25, 0.3, 0.35, 0.4, 0.45)
    }
    assert len(seen) > 1
    laws = [LAW.with_sigma(0.4), LAW.truncated(0.5), noise.gaussian(64, 0.5)]
    laws += [noise.generalized_gaussian(d, 0.5, 28, eta) for d, eta in ((64, 2), (64, 3), (65, 2))]
    assert len({kernel.stream(law) for law in [LAW, *laws]}) == len(laws)  # one of them is LAW


@pytest.mark.parametrize("grid", GRIDS)
def test_a_law_for_each_image_draws_as_that_law_alone(grid: int | None) -> None:
    images, sampler = ONE.repeat(2, axis=0), Sampler(half_space, grid=grid)
    both = sampler.start(images, [1, 1], INSIDE, 1000).result()
    for i, law in enumerate(INSIDE):
        one = sampler.start(ONE, [1], law, 1000, indices=[i]).result()
        assert both.correct[i].tolist() == one.correct[0].tolist()
    assert both.draws.tolist() == [[1000], [1000]]


@pytest.mark.parametrize(
    "value", [np.nan, *(pytest.param(end, marks=pytest.mark.slow) for end in (np.inf, -np.inf))]
)
def test_draws_with_logits_that_are_not_finite_have_no_vote_and_are_counted(value: float) -> None:
    def sometimes(images: Array) -> Array:
        logits = half_space(images)
        return logits.at[:, 0].set(jnp.where(logits[:, 1] > logits[:, 0], value, logits[:, 0]))

    # Images of every kind: some draws, none, all of them.
    images = np.stack([np.full((8, 8, 1), shade, np.float32) for shade in (0.5, 0.55, -99, 99)])
    plain = Sampler(half_space, cutoffs=CUTOFFS).start(images, [1] * 4, LAW, 1000).result()
    counted = Sampler(sometimes, cutoffs=CUTOFFS).start(images, [0] * 4, LAW, 1000).result()
    # These are just the draws that are of class 1 where every logit is finite; an argmax alone
    # would give class 0 to every NaN.
    np.testing.assert_array_equal(counted.not_finite, plain.correct)
    assert 0 < counted.not_finite[0, -1] < counted.not_finite[1, -1] < 1000
    np.testing.assert_array_equal(counted.draws, plain.draws)
    np.testing.assert_array_equal(counted.correct + counted.not_finite, counted.draws)
    assert not plain.not_finite.any()
    for grid in (None, 240):
        images = np.round(images)
        table = count_votes(sometimes, images, [0] * 4, LAW, 1000, inside=INSIDE, grid=grid)
        states = [State.COMPLETE] * 3 + [State.NOT_FINITE]
        assert table.state.tolist() == [[state] * 3 for state in states]


def test_one_compilation_serves_every_law_and_a_ragged_last_block() -> None:
    images, sampler = ONE.repeat(3, axis=0), Sampler(half_space)
    sampler.start(images, [1, 1, 1], LAW, 900).result()
    before = kernel.count_block._cache_size()
    for law in (LAW.with_sigma(0.1), noise.gaussian(64, 0.3), LAW.truncated(0.4)):
        sampler.start(images[:2], [1, 1], law, 700).result()
    assert kernel.count_block._cache_size() == before


@given(
    images=st.integers(1, 8), devices=st.integers(1, 8), begin=st.integers(0, 50),
    tiles=st.integers(1, 60),
)  # fmt: skip
def test_devices_share_all_tiles_evenly(images: int, devices: int, begin: int, tiles: int) -> None:
    images = min(images, devices)
    image, first, last = kernel.share_out(images, devices, begin, begin + tiles)
    # The same number of rows on each device: that is what a compiled program takes.
    assert len(image) == devices * min(2, devices)
    done = [(i, t) for i, f, e in zip(image, first, last, strict=True) for t in range(f, e)]
    everything = {(i, t) for i in range(images) for t in range(begin, begin + tiles)}
    assert len(done) == len(set(done)) and set(done) == everything
    loads = (last - first).reshape(devices, -1).sum(axis=1)
    assert loads.max() == -(-images * tiles // devices)


def test_the_fastest_batch_is_whole_tiles_and_changes_no_vote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(samplers, "_TILES_IN_FLIGHT", (1, 2))  # each is compiled
    sampler = Sampler(half_space, cutoffs=CUTOFFS)
    plain = sampler.start(ONE, [1], LAW, 3000).result()
    batch = sampler.tune(ONE[0], LAW, 10**12)
    assert sampler.batch == batch and batch % kernel.tile_size(64, "cpu") == 0
    again = sampler.start(ONE, [1], LAW, 3000).result()
    np.testing.assert_array_equal(plain.correct, again.correct)


def test_a_full_memory_halves_the_batch_and_changes_no_vote(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = Sampler(half_space).start(ONE, [1], LAW, 4096).result()
    dispatch, most, smaller = Sampler._dispatch, 1024, list[int]()

    def limited(self: Sampler, *arguments) -> Array | np.ndarray:
        if self.batch is None or self.batch > most:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return dispatch(self, *arguments)

    monkeypatch.setattr(Sampler, "_dispatch", limited)
    sampler = Sampler(half_space, batch=4 * 1024, on_smaller=smaller.append)
    np.testing.assert_array_equal(sampler.start(ONE, [1], LAW, 4096).result(), plain)
    assert smaller == [2048, 1024] and sampler.batch == 1024
    most = 0
    with pytest.raises(UserError, match="not enough memory for 1024 draws"):
        sampler.start(ONE, [1], LAW, 4096)


@pytest.mark.process
def test_a_process_that_may_take_no_more_memory_halves_the_batch() -> None:
    """Its allocations fail as a device's do: a tile of 1,024 draws needs 210 MB."""
    program = """
import json, resource, sys
import jax, jax.numpy as jnp, numpy as np
from dsrs_jax import noise
from dsrs_jax.system.compilation import keep_compiled
from dsrs_jax.votes import Sampler

def large(wide, images):
    rows = images.reshape(len(images), 64) @ wide
    return jnp.stack([rows.max(axis=1), -rows.min(axis=1)], axis=1)

keep_compiled()
wide = np.cos(np.arange(64 * 51_200, dtype=np.float32)).reshape(64, 51_200)
image, law = np.full((1, 8, 8, 1), 0.5, np.float32), noise.generalized_gaussian(64, 0.5, 28)
for batch in map(int, sys.argv[2:]):
    smaller = []
    sampler = Sampler(jax.tree_util.Partial(large, wide), batch=batch, on_smaller=smaller.append)
    if sys.argv[1] == "limited":
        lines = open("/proc/self/status").read().splitlines()
        size = 1024 * int(next(line for line in lines if line.startswith("VmSize")).split()[1])
        resource.setrlimit(resource.RLIMIT_AS, (size + 680_000_000,) * 2)
    votes = sampler.start(image, [1], law, 4096).result()
    print(json.dumps([votes.correct.tolist(), smaller[:1]]))
"""

    def counts(*words: str) -> list:
        done = commands.python("-c", program, *words)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    # What is compiled with all the memory that there is, the second process only reads.
    free = counts("free", "1024", "2048", "4096")
    assert counts("limited", "4096") == [[free[0][0], [2048]]] and free == [[free[0][0], []]] * 3


TILE = 16
LOGIT = st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan, np.inf])


@given(
    logits=st.lists(st.lists(LOGIT, min_size=3, max_size=3), min_size=TILE, max_size=TILE),
    ambiguous=st.lists(st.booleans(), min_size=TILE, max_size=TILE),
    span=st.lists(st.integers(0, TILE), min_size=2, max_size=2).map(sorted),
    label=st.integers(0, 2),
)
def test_a_class_has_the_votes_that_it_had_as_the_label(
    logits: list[list[float]], ambiguous: list[bool], span: list[int], label: int
) -> None:
    level, zero = jnp.zeros(TILE, jnp.float32), jnp.uint32(0)
    numbers = jnp.arange(TILE, dtype=jnp.int32)
    seen = kernel.Seen(numbers, jnp.zeros((TILE, 8, 8, 1)), level, level, jnp.array(ambiguous))
    one = kernel.Block(
        jnp.zeros((8, 8, 1)), jnp.int32(label), zero, zero, jnp.int32(0), jnp.int32(1), LAW
    )
    rest = jnp.int32(0), jnp.array(logits, jnp.float32)
    classes, cutoffs = jnp.arange(3, dtype=jnp.int32), jnp.array([jnp.inf], jnp.float32)
    of_all = kernel.count_tile(one, seen, *rest, classes, jnp.array(span, jnp.int32))
    of_one = kernel.count_tile(one, seen, *rest, cutoffs, jnp.array(span, jnp.int32))
    np.testing.assert_array_equal(of_all[:, label], of_one[:, 0])
    draws, votes, _, _ = np.asarray(of_all)
    lost = ~np.isfinite(np.array(logits)).all(axis=1) | np.array(ambiguous)
    assert set(draws) == {span[1] - span[0]}
    assert votes.sum() == np.sum(~lost[span[0] : span[1]])


def drawn_alone(index: int, n: int, grid: int | None, words: list[int], seed: int) -> np.ndarray:
    """The votes of every class, draw by draw from its key; a row for each word of the key."""
    image = IMAGES[0].ravel() if grid is None else CELLS[0].ravel()
    whole = LAW.as_truncated()
    draw = jax.jit(lambda key: sound.draw(LAW, key, grid).cells if grid else whole.draw(key)[1])
    votes = []
    with jax.threefry_partitionable(True), kernel.precision(grid):
        for word in words:
            key = jax.random.key(seed, impl="threefry2x32")
            for number in (word, index, kernel.stream(LAW)):
                key = jax.random.fold_in(key, np.uint32(number))
            keys = [jax.random.fold_in(key, np.int32(number)) for number in range(n)]
            seen = np.stack([(image + np.asarray(draw(one))) / (grid or 1) for one in keys])
            winners = np.argmax(seen.astype(np.float32) @ W, axis=1)
            votes.append(np.bincount(winners, minlength=7))
    return np.stack(votes)


@pytest.mark.parametrize("grid", GRIDS)
def test_counts_are_those_of_the_draws_one_by_one_and_a_purpose_has_its_own(
    grid: int | None,
) -> None:
    n, index, seed = 60, 9, 5
    made = Sampler(linear, seed=seed, grid=grid)
    found = made.start(IMAGES[:1], None, LAW, n, indices=[index], classes=7).result()
    counted = [found.correct[0]]
    # A certificate's draws, of the same seed, image and law, are others; and so are a pilot's.
    for pilot in (False, True):
        sampler = Sampler(linear, seed=seed, grid=grid, pilot=pilot)
        each = [sampler.start(IMAGES[:1], [i], LAW, n, indices=[index]).result() for i in range(7)]
        counted.append(np.array([votes.correct[0, -1] for votes in each]))
    words = [samplers._CHOOSING, samplers._SAMPLING, samplers._PILOT]
    alone = drawn_alone(index, n, grid, words, seed)
    assert np.all(np.abs(alone - counted).sum(axis=1) <= 2)  # a logit's last digit
    assert np.stack(counted).sum(axis=1).tolist() == [n] * 3
    for one, other in itertools.combinations(counted, 2):
        assert np.abs(one - other).sum() > 4


def test_images_come_in_their_order_and_a_damaged_one_has_no_votes() -> None:
    examples = [Example(4, IMAGES[0], 1), Example(5, None, -1, "damaged"), Example(7, IMAGES[2], 0)]
    examples += [Example(9, None, -1, "gone")] * 4
    made = Sampler(linear, grid=240)
    found = list(count_classes(made, examples, LAW, 200, 7))
    assert [one.index for one, _ in found] == [4, 5, 7, 9, 9, 9, 9]
    alone = made.start(IMAGES[::2], None, LAW, 200, indices=[4, 7], classes=7).result().correct
    assert all(one.image is None for one, _ in found)
    for row, (_, counted) in enumerate(found):
        np.testing.assert_array_equal(counted.votes, alone[row // 2] if row in (0, 2) else [0] * 7)


@pytest.mark.torch
@pytest.mark.parametrize("grid", GRIDS)
def test_a_pytorch_module_is_counted_by_the_same_draws(grid: int | None) -> None:
    import torch

    from dsrs_jax.convert.pytorch import TorchClassifier

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7, bias=False)).eval()
    with torch.no_grad():
        network[1].weight.copy_(torch.from_numpy(W.T))
    about = models.ModelMetadata("network", "digits", (8, 8, 1), 7)
    scaling = models.input_scaling("digits", "none")
    module = TorchClassifier(network, about, scaling, source="", dtype="float32")
    counts = [
        Sampler(one, grid=grid).start(IMAGES, None, LAW, 500, classes=7).result()
        for one in (module, linear)
    ]
    assert np.abs(counts[0].correct - counts[1].correct).sum() <= 6  # logits' last digits
    np.testing.assert_array_equal(counts[0].draws, counts[1].draws)


def test_count_votes_without_labels_counts_those_of_the_class_that_wins() -> None:
    found = count_votes(linear, IMAGES, None, LAW, 400, grid=240, n0=50, seed=0)
    assert found.chosen is not None and found.chosen.draws == 50
    first = Sampler(linear, grid=240).start(IMAGES, None, LAW, 50, classes=7).result().correct
    assert found.label.tolist() == np.argmax(first, axis=1).tolist()
    assert found.chosen.votes.tolist() == first.max(axis=1).tolist()
    assert found.true_label.tolist() == [-1] * 3
    given_ = count_votes(linear, IMAGES, found.label, LAW, 400, grid=240, seed=0)
    np.testing.assert_array_equal(found.votes, given_.votes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "must be positive"),
        ({"batch": 0}, "must be positive"),
        ({"images": ONE[0]}, r"\(N, H, W, C\)"),
        ({"labels": [1, 1]}, "must agree"),
        ({"law": noise.gaussian(63, 0.5)}, "dimension 64"),
        # What the compiled program cannot tell from another number.
        *(({"seed": seed}, f"seed must be a whole number .* got {seed}") for seed in (-1, 2**32)),
        *(({"indices": [i]}, f"index must be a whole .* got {i}") for i in (-1, 0.5, 2**32)),
        *(({"labels": [label]}, f"label must be a whole .* got {label}") for label in (0.5, 2**32)),
        ({"first": -1}, r"first draw must be .* in \[0, 2147483648\), got -1"),
        ({"first": 2**31 - 10}, r"first \+ n, must be .* in \[1, 2147483648\), got 2147483648"),
        ({"n": 2**31}, r"first \+ n, must be .*, got 2147483648"),
        ({"inside": [LAW.with_sigma(0.4).truncated(0.5)]}, "the law itself, truncated"),
        ({"classifier": lambda images: images.sum((1, 2))}, "has at least two classes"),
        ({"grid": 240, "images": ONE + np.float32(0.001)}, "no multiples of 1/240, as sound draws"),
    ],
)
def test_numbers_outside_their_domain_are_refused(change: dict, message: str) -> None:
    arguments = {"classifier": half_space, "images": ONE, "labels": [1], "law": LAW, "n": 10}
    with pytest.raises(UserError, match=message):
        count_votes(**{**arguments, "batch": 10, **change})
