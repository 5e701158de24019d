"""What `asvit study` refuses: one line, before anything is written."""

import pytest

from asvit_tf import cli


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "mnist"], "unknown dataset 'mnist'; embedded are digits, cluttered_digits"),
        (["--dataset", "digits", "--data_path", "x"], "give either a dataset or a data_path"),
        (["--data_path", "nowhere"], "nowhere is not a folder"),
        (["--topologies", "1"], "topologies is 1; it must be at least 2"),
        (["--topologies", "5000000"], "the search space has 675000"),
        (["--topologies", "5000000", "--space", "published"], "the search space has 4556250"),
        (["--space", "all"], "'all' is not one of 'fitting', 'published'"),
        (["--base_stride", "0"], "base_stride is 0; it must be at least 1"),
        (["--width", "8"], "width is 8; heads of 8 channels need at least 16"),
        (["--image_size", "100000"], "image_size is 100000; allowed are up to 1024"),
        (["--image_size", "7"], "image_size is 7; it must be at least 8"),
        (["--epochs", "0"], "epochs is 0; it must be at least 1"),
        (["--width", "7"], "width is 7; it must be at least 8"),
        (["--width", "100000"], "width is 100000; allowed are up to 1024"),
        (["--draws", "1000000000"], "draws is 1000000000; allowed are up to 100000"),
        (["--seed_repeats", "3000000000"], "seed_repeats is 3000000000; allowed are up to 1000"),
        (["--learning_rate", "nan"], "learning_rate is nan"),
        (["--gradient_clip_norm", "-1"], "gradient_clip_norm is -1.0"),
        (["--seed", "2147483648"], "it must be below 2**31"),
        (["--workers", "0"], "0 is not in the range"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, capsys):
    assert cli.main(["study", "--save_dir", str(tmp_path / "out"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out/settings.json").exists()
