"""What runs and logs are called in tables: the shortest paths that tell them apart."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def shortest_names(paths: Sequence[str]) -> list[str]:
    """For each path as much of its end as no other one has: its name, or folders and its name.

    A path that is there again has a number behind it. What is no text in a path is escaped.
    """
    whole = [Path(os.path.abspath(path)).parts for path in paths]
    names = []
    for number, parts in enumerate(whole):
        others = {other for other in whole if other != parts}
        ends = (parts[-length:] for length in range(1, len(parts) + 1))
        end = next(end for end in ends if all(other[-len(end) :] != end for other in others))
        again = whole[:number].count(parts)
        name = os.path.join(*end) + (f" ({again + 1})" if again else "")
        names.append(name.encode(errors="backslashreplace").decode())
    return names
