"""What runs and logs are called: the shortest paths that tell them apart."""

from dsrs_jax.run.names import shortest_names


def test_names_are_the_shortest_ends_of_paths_that_tell_them_apart() -> None:
    assert shortest_names(["runs/sigma_0.25", "runs/sigma_0.50/"]) == ["sigma_0.25", "sigma_0.50"]
    paths = ["a/x/run", "b/x/run", "a/y/run", "log.tsv", "x/log.csv"]
    assert shortest_names(paths) == ["a/x/run", "b/x/run", "y/run", "log.tsv", "log.csv"]
    assert shortest_names(["run", "other/run"])[1] == "other/run"
    # One inside the other, and the same one twice.
    assert shortest_names(["/a", "/b/a", "/b/../a"]) == ["/a", "b/a", "/a (2)"]
    assert shortest_names(["/run", "/run"]) == ["run", "run (2)"]
    assert shortest_names(["/a\udcff"]) == ["a\\udcff"]
