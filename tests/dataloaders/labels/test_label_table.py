"""Files of classes: every form, what is ignored, and a line number for what contradicts itself."""

import numpy as np
import pytest

from asvit_tf.dataloaders.labels import table
from asvit_tf.dataloaders.masks import IGNORED
from asvit_tf.errors import OneClassError, UserError


def read(tmp_path, text, *ignored):
    path = tmp_path / "classes.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return table.read(path, ignored)


@pytest.mark.parametrize(
    ("text", "ignored", "names", "labels", "left_out"),
    [
        ("sky\nroad, wet\n\n# none\ncar  # red\n", (), ("sky", "road, wet", "car"), (0, 1, 2), {255}),
        ("sky\nroad\ncar\n", ("road", "7"), ("sky", "car"), (0, 2), {1, 7, 255}),
        ("9\tthe car\n3, sky\n255 void\n4 1st\n", (), ("sky", "1st", "the car"), (3, 4, 9), {255}),
        ("1 wall\n2 door\n150 flag\n", ("0",), ("wall", "door", "flag"), (1, 2, 150), {0, 255}),
        (
            "64 128 64\t\tAnimal\n0,0,0,Void\n128 0 192 Bicyclist\n",
            ("Void",),
            ("Animal", "Bicyclist"),
            ((64, 128, 64), (128, 0, 192)),
            {(0, 0, 0)},
        ),
        (b"\xef\xbb\xbfsky\r\nb\xc3\xa4r\r\n", (), ("sky", "bär"), (0, 1), {255}),
    ],
    ids=["names", "ignored", "numbers", "from 1", "colours", "windows"],
)
def test_a_file_says_which_label_is_which_class(tmp_path, text, ignored, names, labels, left_out):
    found = read(tmp_path, text, *ignored)
    assert (found.names, found.labels, found.ignored) == (names, labels, left_out)


def test_without_a_file_numbers_are_classes_without_those_ignored():
    found = table.of_numbers(["0", "2"])
    assert found.names[:3] == ("1", "3", "4")
    assert len(found.labels) == IGNORED
    assert found.labels[-1] == 257  # 258 numbers without 0, 2 and 255.
    assert found.up_to(2).labels == (1, 3)
    assert found.ignored == {0, 2, 255}


@pytest.mark.parametrize("text", ["3 a\n9 b\n5 c\n", "1 2 3 a\n255 255 255 b\n0 0 1 c\n"], ids=["numbers", "colours"])
def test_the_lookup_holds_each_label_and_no_other(tmp_path, text):
    found = read(tmp_path, text, "c")
    lookup = found.lookup()
    colours = {0x010203: 0, 0xFFFFFF: 1, 0x000001: IGNORED}
    expected = colours if found.in_colours else {3: 0, 9: 1, 5: IGNORED, 255: IGNORED}
    assert {int(place): int(lookup[place]) for place in np.flatnonzero(lookup != table.NO_CLASS)} == expected


@pytest.mark.parametrize(
    ("text", "ignored", "message"),
    [
        ("sky\n3 road\n", (), r"line 2 of .* is NUMBER NAME, but the lines before are NAME"),
        ("3 sky\n1 2 3 road\n", (), r"line 2 of .* is R G B NAME, but the lines before are NUMBER NAME"),
        ("3 sky\n\n3 road\n", (), "line 3 of .* has the label of line 1 again: 3 road"),
        ("1 2 3 a\n3 2 1 b\n1 2 3 c\n", (), "line 3 of .* has the label of line 1 again"),
        ("sky\nroad\nsky\n", (), "line 3 of .* has the name of line 1 again: sky"),
        ("1 sky\n256 road\n", (), "line 2 of .* not between 0 and 255: 256 road"),
        ("-1 license plate\n1 sky\n", (), "line 1 of .* not between 0 and 255: -1 license plate"),
        ("1 2 3 a\n1 2 300 b\n", (), "line 2 of .* not between 0 and 255"),
        ("1 2 3\n", (), "line 1 of .* has a colour without a name"),
        ("".join(f"class of {i}\n" for i in range(257)), (), "line 257 of .* not between 0 and 255"),
        ("# nothing\n", (), "names no classes; expected a class a line, as NAME, NUMBER NAME, R G B NAME"),
        (b"\xff\xfe", (), "no text in UTF-8"),
        ("sky\nroad\n", ("tree",), "--ignored tree is no class; allowed are numbers from 0 to 65535 and names that"),
        ("sky\nroad\n", ("65536",), "--ignored 65536 is no class"),
        ("1 2 3 a\n3 2 1 b\n", ("3",), "--ignored 3 is no class; allowed are names that"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused_with_its_line(tmp_path, text, ignored, message):
    with pytest.raises(UserError, match=message) as refusal:
        read(tmp_path, text, *ignored)
    assert len(str(refusal.value).splitlines()) == 1


def test_one_class_cannot_be_learned(tmp_path):
    with pytest.raises(OneClassError, match="has 1 classes that are not ignored"):
        read(tmp_path, "sky\nvoid\n", "void")


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the classes of .*none.txt: No such file"):
        table.read(tmp_path / "none.txt")
    with pytest.raises(UserError, match=r"--ignored void is no class; .* names where there is a file of classes"):
        table.of_numbers(["void"])
