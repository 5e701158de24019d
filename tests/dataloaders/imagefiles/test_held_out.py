"""A fifth of every class, and of copies both or none."""

import numpy as np
import pytest

from asvit_tf.dataloaders.imagefiles import held_out


def contents(words):
    """One class for each word, one image for each letter; the same letter is the same image."""
    return [[letter.encode() for letter in word] for word in words.split()]


def held(words):
    return [
        "".join(word[i] for i in sorted(places))
        for word, places in zip(words.split(), held_out.places(contents(words)))
    ]


@pytest.mark.parametrize("size", [2, 3, 7, 8, 12, 13, 100])
def test_without_copies_it_is_the_first_fifth(size):
    order = [bytes([i]) for i in np.random.default_rng(size).permutation(size)]
    others = [bytes([100 + i]) for i in range(10)]
    assert held_out.places([order, others]) == [set(range(max(1, round(size / 5)))), {0, 1}]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("aabcdefghi jklmnopqrs", "aa jk"),  # Together.
        ("abcdefghai jklmnopqrs", "aa jk"),  # Wherever they lie.
        ("abcdefghbi jklmnopqrs", "ac jk"),  # What would be too much stays on the other side, whole.
        ("aaabcdefgh jklmnopqrs", "bc jk"),
        ("aaabbb jklmnopqrs", "aaa jk"),  # Nothing fits: the smallest.
        ("aaabb jklmnopqrs", "bb jk"),
        ("aaaaa jklmnopqrs", "a jk"),  # One image only: nothing else can be done.
        ("abcdefghij akbmnopqrs", "cd km"),  # Of two classes: not held out as long as there are others,
        ("abcde edcba", "X X"),  # and where there are no others, the same ones in both.
    ],
)
def test_copies_lie_on_one_side(words, expected):
    found = held(words)
    if "X" in expected:
        assert found[0] == found[1]
        assert len(found[0]) == 1
    else:
        assert found == expected.split()


@pytest.mark.parametrize("seed", range(20))
def test_of_many_copies_none_lies_across(seed):
    """Unless a class consists of one image, or shares all of its images with others."""
    random = np.random.default_rng(seed)
    orders = [[b"%d %d" % (label, number) for number in random.integers(0, 30, 50)] for label in range(3)]
    places = held_out.places(orders)
    for order, its in zip(orders, places):
        inside = {order[i] for i in its}
        assert not inside & {content for i, content in enumerate(order) if i not in its}
        assert 8 <= len(its) <= 10  # Of 50.


def test_broken_copies_do_not_count(tmp_path):
    """75 files of the same damage beside 25 sound images: a fifth of 25."""
    paths = []
    for i in range(100):
        path = tmp_path / f"{i}.ppm"
        path.write_bytes(b"broken" if i % 4 else b"P6 1 1 255\n" + bytes([i, 0, 0]))
        paths.append(str(path))
    (places,) = held_out.places([paths])
    assert sorted(places) == [0, 4, 8, 12, 16]
