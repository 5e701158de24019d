"""YAMLs that the program writes: the Model Garden reads every text as a text."""

import pytest
from official.modeling.hyperparams import params_dict

from asvit_tf.dataloaders import experiment_yaml, record_paths
from asvit_tf.errors import UserError
from asvit_tf.tasks import experiment_files

TEXTS = ["1e3", "-1E5", "1_0e2", ".5", "10", "0x1f", "1:30", "1.5e+3", "no", "~", "null", "", "2020-01-01", "a: b", "#"]
TEXTS += [
    "Bäume",
    "\udce9",
    "two\nlines",
    "'",
    '"',
    " space ",
    "4,2,2|2,2,2|8",
    "[1]",
    "{",
    "- x",
    "x" * 200,
    "a b " * 90,
]


@pytest.mark.parametrize("text", TEXTS)
def test_every_text_stays_a_text(tmp_path, text):
    experiment = dict(task=dict(names=[text, "b"], model=dict(topology=text), input_path=text))
    (tmp_path / "experiment.yaml").write_text(experiment_yaml.text(experiment, "Two lines,\n\nand an empty one."))
    read = params_dict.read_yaml_to_params_dict(str(tmp_path / "experiment.yaml")).as_dict()
    assert read == experiment


def test_numbers_stay_numbers_and_the_order_is_kept():
    written = experiment_yaml.text(dict(b=dict(rate=0.25, small=1e-5, count=3, on=True), a=None), "Why.")
    assert written == "# Why.\nb: {rate: 0.25, small: 1.0e-05, count: 3, 'on': true}\na: null\n"


def test_paths_below_a_directory_are_named_from_the_yaml():
    paths = dict(
        annotation_file="/r/data/a b.json",
        train_data=dict(input_path="/r/data/train-*-of-00002.tfrecord"),
        classes=["/r/x", "/r", "r/x", "/rx"],
        step=3,
        class_names=["/r/x", "no/name"],
    )
    written = experiment_yaml.to_here(paths, "/r", "/r/model")
    assert written == dict(
        annotation_file="$HERE/../data/a b.json",
        train_data=dict(input_path="$HERE/../data/train-*-of-00002.tfrecord"),
        classes=["$HERE/../x", "/r", "r/x", "/rx"],
        step=3,
        class_names=["/r/x", "no/name"],
    )
    assert experiment_yaml.from_here(written, "/r/model") == paths
    moved = experiment_yaml.from_here(written, "/s [1]/model")
    assert moved["annotation_file"] == "/s [1]/data/a b.json"
    assert moved["train_data"]["input_path"] == "/s \\[1\\]/data/train-*-of-00002.tfrecord"


def test_what_is_not_special_stays_as_it_is():
    assert record_paths.pattern("/a b/c", "train.tfrecord") == "/a b/c/train.tfrecord"
    assert record_paths.pattern("/a [1]", "train.tfrecord") == "/a [1]/train.tfrecord"
    assert record_paths.understood("gs://bucket/a,b/train*") == "gs://bucket/a,b/train*"
    assert record_paths.understood("/none/a,/none/b*") == "/none/a,/none/b*"
    assert record_paths.understood(["/none/[1]", 3]) == ["/none/[1]", 3]


@pytest.mark.parametrize(
    "text",
    [
        "task: &a {b: *a}",
        "task: &a [1, *a]",
        "\n".join(["a0: &a0 [x, x]", *(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60))]),
    ],
    ids=["mapping", "list", "doubled"],
)
def test_aliases_without_end_are_refused(tmp_path, text):
    (tmp_path / "experiment.yaml").write_text(text)
    with pytest.raises(UserError, match="is no YAML: its aliases") as caught:
        experiment_files.read(str(tmp_path / "experiment.yaml"))
    assert "\n" not in str(caught.value)


def test_aliases_are_read(tmp_path):
    (tmp_path / "experiment.yaml").write_text("a: &a {input_path: $HERE/x}\nb: [*a, *a]\nc: *a\n")
    value = dict(input_path=f"{tmp_path}/x")
    assert experiment_files.read(str(tmp_path / "experiment.yaml")) == dict(a=value, b=[value, value], c=value)
