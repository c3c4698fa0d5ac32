"""The published layout: what is written is read back, and damage is told in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsrs_jax.run import published_layout as layout
from dsrs_jax.system.errors import UserError

RADII = st.dictionaries(st.integers(0, 50_000), st.floats(0, 5), max_size=20)


def study(directory: Path) -> layout.Study:
    return layout.Study(directory, "net.pth", "general-gaussian", 380.0, 1.0, 50_000, 5e-5)


def test_names_are_the_published_ones(tmp_path: Path) -> None:
    net, end = study(tmp_path), "50000-5e-05"
    begin = "net.pth/{}general-gaussian{}-380-1.0-".format
    files = {
        net.intervals(threshold="x+"): f"sampling/{begin('', '')}{end}-x+.txt",
        net.intervals(threshold="0.50"): f"sampling/{begin('', '')}{end}-0.5.txt",
        net.intervals(draws=100_000, alpha=0.0001): f"sampling/{begin('', '')}100000-0.0001.txt",
        net.neyman_pearson(): f"orig-radius/{begin('orig-rad-', '')}{end}.txt",
        net.double_sampling(sigma=0.8): f"new-radius/{begin('new-rad-', '')}0.8-{end}.txt",
        net.double_sampling(threshold="x2"): f"new-radius/{begin('new-rad-', '-th')}x2-{end}.txt",
    }
    assert {file: str(file.relative_to(tmp_path)) for file in files} == files


def test_every_published_file_is_read(published_dir: Path) -> None:
    for file in published_dir.glob("sampling/*/*.txt"):
        assert 100 <= len(layout.read_intervals(file)) <= 1000
    for file in published_dir.glob("*-radius/*/*.txt"):
        if file.name.startswith("time-new"):
            assert min(layout.read_seconds(file)) > 0.0
            assert layout.times_of(file.with_name(file.name.removeprefix("time-"))) == file
        else:
            assert 99 <= len(layout.read_radii(file)) <= 1000


@given(plain=RADII, factor=st.floats(1, 2))
def test_radii_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, plain: dict[int, float], factor: float
) -> None:
    folder = tmp_path_factory.mktemp("radii")
    more = {index: radius * factor for index, radius in plain.items()}
    layout.write_neyman_pearson(folder / "a" / "orig.txt", plain)
    layout.write_double_sampling(folder / "a" / "new.txt", more, plain)
    assert layout.read_radii(folder / "a" / "orig.txt") == plain
    assert layout.read_radii(folder / "a" / "new.txt") == more
    for line in (folder / "a" / "new.txt").read_text().splitlines():
        index, radius, gain, relative = line.split(" ")
        start = plain[int(index)]
        assert float(gain) == float(radius) - start
        assert float(relative) == float(gain) / max(start, 1e-5)


def test_of_a_sample_the_first_line_counts_and_of_radii_the_last(tmp_path: Path) -> None:
    sample, radii = tmp_path / "sample.txt", tmp_path / "radii.txt"
    sample.write_text("\n# a comment\nx N 50000\n\no 7 0.25 0.5\no 3 0 1\no 7 0.75 0.8\n")
    assert layout.read_intervals(sample) == {7: (0.25, 0.5), 3: (0.0, 1.0)}
    radii.write_text("# a comment\n7 0.25\n\n3 0.5 0.1 0.2\n7 0.75\n")
    assert layout.read_radii(radii) == {7: 0.75, 3: 0.5}


@pytest.mark.parametrize(
    ("read", "good", "lines"),
    [
        (layout.read_intervals, "x k 380",
         ["o 7 0.5 0.25", "o 7 -0.1 0.5", "o 7 0.5 1.1", "o 7 0.5", "o x 0.1 0.2", "7 0.1 0.2",
          "o 7 nan 0.5", "o 7 0.1 0.2 0.3"]),
        (layout.read_radii, "1 0.5", ["7", "7 -1", "7 nan", "seven 0.5", "7 inf", "7 far"]),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_its_line(
    tmp_path: Path, read: Callable[[Path], object], good: str, lines: list[str]
) -> None:
    file = tmp_path / "damaged.txt"
    for line in lines:
        file.write_text(f"{good}\n{line}\n")
        with pytest.raises(UserError, match=r"damaged\.txt, line 2: ") as caught:
            read(file)
        assert "\n" not in str(caught.value)
