"""Which images of a folder without splits are held out: a fifth of every class, no copy of one that is trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Sequence

from asvit_tf.dataloaders.imagefiles import copies, door, parallel
from asvit_tf.dataloaders.progress import brief_bar

SHARE = 0.2

Place = tuple[int, int]  # A class, and a place in its order.


def places(
    orders: Sequence[Sequence[bytes | str]], progress: bool = False, threads: int | None = None
) -> list[set[int]]:
    """Of every class, places in its order of the first images that can be decoded: a fifth of all that can be.

    Files with the same bytes are held out together or not at all: from the beginning of the order they are taken as
    long as they fit into the fifth. Those that lie in several classes, of which at most one is right, are the last to
    be taken. A class that consists of copies of one image is cut all the same, because something has to be held out.

    Reading takes long. So files that are foreign by name are looked at, one of the copies is decoded for all, and no
    more than the first fifth of the others, unless one of these cannot be: then all of that class are tried before its
    fifth is counted.

    Args:
      orders: The files of each class, as paths or as bytes that can be decoded.
      progress: Show a progress bar.
      threads: That read image files; None for one a core.
    """
    everything: list[Place] = [(label, place) for label, order in enumerate(orders) for place in range(len(order))]
    found = copies.copies([orders[label][place] for label, place in everything], progress, threads)
    same = {everything[i]: content for i, content in found.items()}
    contradictory = _in_several_classes(same)
    sound: dict[Place, bool] = {}

    def contents(where: Place) -> bytes | str:
        return orders[where[0]][where[1]]

    def is_foreign(where: Place) -> bool:
        file = contents(where)
        return isinstance(file, str) and door.is_foreign(file)

    def first_fifth(label: int) -> list[int]:
        left = [place for place in range(len(orders[label])) if sound.get((label, place), True)]
        groups: dict[Hashable, list[int]] = {}
        for place in left:
            groups.setdefault(same.get((label, place), place), []).append(place)
        certain = [members for content, members in groups.items() if content not in contradictory]
        # By their digests, so that every class takes the same ones first.
        others = [groups[content] for content in sorted(contradictory & groups.keys())]
        return _fitting([*certain, *others], max(1, round(SHARE * len(left))))

    def try_all(places: Iterable[Place]) -> None:
        untried = [where for where in places if where not in sound]
        bar.total = (bar.total or 0) + len(untried)
        paths = (file for file in map(contents, untried) if isinstance(file, str))
        with contextlib.closing(parallel.reasons_against(paths, threads)) as reasons:
            for where in untried:
                sound[where] = isinstance(contents(where), bytes) or next(reasons) is None
                bar.update()

    with brief_bar(None, "holding images out", progress) as bar:
        try_all(where for where in everything if is_foreign(where))
        samples: dict[bytes, Place] = {}
        for where, content in same.items():
            samples.setdefault(content, where)
        try_all(samples.values())
        sound |= {where: sound[samples[content]] for where, content in same.items()}
        tried = [(label, place) for label in range(len(orders)) for place in first_fifth(label)]
        try_all(tried)
        doubtful = {label for label, place in tried if not sound[label, place]}
        try_all(where for where in everything if where[0] in doubtful)
    return [set(first_fifth(label)) for label in range(len(orders))]


def _in_several_classes(same: dict[Place, bytes]) -> set[bytes]:
    classes: dict[bytes, set[int]] = {}
    for (label, _), content in same.items():
        classes.setdefault(content, set()).add(label)
    return {content for content, its in classes.items() if len(its) > 1}


def _fitting(groups: Sequence[list[int]], wanted: int) -> list[int]:
    """Places of whole groups, the first that fit into so many; the smallest if none does; part of the only one."""
    if len(groups) == 1:
        return groups[0][:wanted]
    taken: list[int] = []
    for members in groups:
        if len(taken) + len(members) <= wanted:
            taken += members
    return taken or min(groups, key=len, default=[])
