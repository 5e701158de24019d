"""Images that are there more than once: counted as by comparing each with each, in little memory, said in words."""

import tracemalloc

import numpy as np
import pytest

from asvit_tf.dataloaders.imagefiles import duplicates


def part(contents, labels, name):
    """A split of these contents, None for one that was not written, whose images are called name0, name1, ..."""
    digests = [duplicates.NONE if content is None else duplicates.digest(content) for content in contents]
    return duplicates.Part(b"".join(digests), np.array(labels, np.int32), lambda place: f"{name}{place}")


def by_hand(splits):
    """The counts from pairs of images: each with each."""
    rows = [
        (split, content, label)
        for split, (contents, labels) in splits.items()
        for content, label in zip(contents, labels)
        if content is not None
    ]
    of = {split: [content for its, content, _ in rows if its == split] for split in splits}
    return dict(
        images={split: len(its) for split, its in of.items()},
        **{
            f"{inner}_in_{outer}": sum(content in of[outer] for content in of[inner])
            for inner, outer in (("validation", "train"), ("test", "train"), ("test", "validation"))
        },
        repeated={split: sum(content in its[:i] for i, content in enumerate(its)) for split, its in of.items()},
        conflicting=sum(any(a[1] == b[1] and a[2] != b[2] for b in rows) for a in rows),
    )


@pytest.mark.parametrize("seed", range(5))
def test_counts_against_each_with_each(seed):
    random = np.random.default_rng(seed)
    splits = {}
    for split, count in (("train", 60), ("validation", 25), ("test", 20)):
        contents = [None if number == 0 else b"%d" % number for number in random.integers(0, 90, count)]
        splits[split] = contents, random.integers(0, 3, count).tolist()
    found = duplicates.count({split: part(*its, split) for split, its in splits.items()})
    names = found.pop("names")
    assert found == by_hand(splits)
    place = {f"{split}{i}": (split, i) for split, (contents, _) in splits.items() for i in range(len(contents))}
    for kind, pairs in names.items():
        count = found[kind] if kind != "repeated" else sum(found[kind].values())
        assert 0 < len(pairs) <= min(3, count)
        for image, copy in pairs:
            assert image != copy
            (split, i), (other, j) = place[image], place[copy]
            assert splits[split][0][i] == splits[other][0][j]
            if kind == "conflicting":
                assert splits[split][1][i] != splits[other][1][j]
            elif kind != "repeated":
                assert kind == f"{split}_in_{other}"


def test_nothing_twice():
    found = duplicates.count({"train": part([b"a", b"b"], [0, 1], "t"), "validation": part([b"c"], [0], "v")})
    assert found == dict(
        images=dict(train=2, validation=1),
        validation_in_train=0,
        repeated=dict(train=0, validation=0),
        conflicting=0,
        names=dict(validation_in_train=[], repeated=[], conflicting=[]),
    )
    assert duplicates.in_words(found) == ""
    assert duplicates.in_words(None) == ""


def test_words_have_numbers_consequences_and_names():
    splits = {
        "train": part([b"a", b"b", b"b", b"c"], [0, 1, 1, 0], "train/"),
        "validation": part([b"a", b"d", b"e", b"c"], [0, 0, 0, 1], "val/"),
        "test": part([b"d", b"x"], [0, 1], "test/\udce9"),
    }
    assert duplicates.in_words(duplicates.count(splits)).splitlines() == [
        "validation images that are training images, too: 2 of 4; the accuracy on validation is too high by up to 50.0 "
        "percentage points",
        "  val/0 is the same as train/0",
        "  val/3 is the same as train/3",
        "test images that are validation images, too: 1 of 2; the network is chosen by them, so the accuracy on test "
        "may be a little too high",
        "  test/\\udce90 is the same as val/1",
        "images that repeat another of their split: 1 of train; they count more than once",
        "  train/2 is the same as train/1",
        "images of which a copy has another label: 2; whatever a network says, it is wrong about one of the two",
        "  train/3 is the same as val/3",
    ]


def test_a_million_images_take_little_memory():
    count = 1_000_000
    digests = np.random.default_rng(0).integers(1, 2**63, count).astype("<u8").tobytes()
    labels = np.zeros(count, np.int32)
    tracemalloc.start()
    try:
        parts = {
            "train": duplicates.Part(digests, labels, str),
            "validation": duplicates.Part(digests[:80], labels[:10], str),
        }
        found = duplicates.count(parts)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert found["validation_in_train"] == 10
    assert peak / count < 120  # Bytes; as Python's bytes in a dict they would take 150 and more.


def test_the_digest_is_the_same_everywhere():
    """BLAKE2b of eight bytes, as coreutils' `b2sum -l 64` has it."""
    assert duplicates.digest(b"abc").hex() == "d8bb14d833d59559"
