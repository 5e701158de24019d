"""Settings that are refused in one line before anything is built: sizes, classes, learning rates, types, files."""

import json

import pytest
from helpers import CONFIGS, records
from official.core import exp_factory, train_utils

from asvit_tf.errors import UserError
from asvit_tf.tasks import checks, experiment_files
from asvit_tf.training import run as training

RECIPE = str(CONFIGS / "digits_asvit_i32_cpu.yaml")


def configured(*overrides, files=()):
    return training.configure(train_utils.ParseConfigOptions("asvit_digits", [RECIPE, *files]), overrides)


@pytest.mark.parametrize("size", ["[32, 32, 1]", "[32, 32]", "[32, 0, 3]", "[32, 32, 4]", "[32]"])
def test_input_sizes(size):
    with pytest.raises(UserError, match=r"input_size is .*; it must be height, width and 3"):
        checks.check(configured(f"{{task: {{model: {{input_size: {size}}}}}}}"))


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("attention", "chunk", "allowed are auto, whole, chunked"),
        ("recompute", "stage", "allowed are none, blocks"),
        ("window", "wide", "allowed are split, fixed"),
        ("initialization", "he", "allowed are released, lecun"),
        ("stochastic_depth", 1.0, "allowed are rates from 0 to below 1"),
    ],
)
def test_fields_of_the_backbone(field, value, allowed):
    params = configured(json.dumps(dict(task=dict(model=dict(backbone=dict(asvit={field: value}))))))
    with pytest.raises(UserError, match=rf"task.model.backbone.asvit.{field} is {value!r}; {allowed}"):
        checks.check(params)


@pytest.mark.parametrize(("names", "good"), [([], True), (["a"] * 10, True), (["a"] * 9, False), (["a"] * 11, False)])
def test_as_many_names_as_classes(names, good):
    params = configured(json.dumps(dict(task=dict(class_names=names))))
    if good:
        checks.check(params)
    else:
        with pytest.raises(UserError, match=f"num_classes is 10, but task.class_names are {len(names)}"):
            checks.check(params)


@pytest.mark.parametrize(("classes", "model"), [(3, 2), (3, 10), (3, 3)])
def test_as_many_classes_as_the_data_have(tmp_path, classes, model):
    records(tmp_path / "train.tfrecord", [0, 1])
    summary = dict(class_names=["a"] * classes, train_examples=2, validation_examples=0)
    (tmp_path / "dataset.json").write_text(json.dumps(summary))
    params = configured(
        json.dumps(
            dict(task=dict(model=dict(num_classes=model), train_data=dict(input_path=f"{tmp_path}/train.tfrecord")))
        )
    )
    if classes == model:
        checks.check_data(params, "train_data")
    else:
        with pytest.raises(UserError, match=f"data have 3 classes, the model {model}; set task.model.num_classes=3"):
            checks.check_data(params, "train_data")


@pytest.mark.parametrize(
    ("rate", "steps", "message"),
    [
        (dict(type="cosine", cosine=dict(decay_steps=8)), 8, None),
        (dict(type="cosine", cosine=dict(decay_steps=4)), 8, "8, but the cosine .* is 0 from step 4 on.*decay_steps=8"),
        (dict(type="cosine", cosine=dict(decay_steps=4, offset=4)), 8, None),
        (dict(type="cosine", cosine=dict(decay_steps=4, alpha=0.1)), 8, None),
        (dict(type="polynomial", polynomial=dict(decay_steps=4, end_learning_rate=0.0)), 8, "the polynomial .* is 0"),
        (dict(type="polynomial", polynomial=dict(decay_steps=4, end_learning_rate=0.1)), 8, None),
        (dict(type="constant", constant=dict(learning_rate=0.1)), 8, None),
    ],
)
def test_a_training_ends_with_its_learning_rate(rate, steps, message):
    params = configured(json.dumps(dict(trainer=dict(train_steps=steps, optimizer_config=dict(learning_rate=rate)))))
    if message is None:
        checks.check_learning_rate(params.trainer)
    else:
        with pytest.raises(UserError, match=message):
            checks.check_learning_rate(params.trainer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: {model: {num_classes: many}}", "task.model.num_classes is 'many'; it must be a whole number"),
        ("task: {model: {num_classes: true}}", "task.model.num_classes is True; it must be a whole number"),
        ("task: {model: {dropout_rate: x}}", "dropout_rate is 'x'; it must be a number"),
        ("task: {class_names: cat}", "class_names is 'cat'; it must be a list, each a text"),
        ("task: {class_names: [1, 2]}", "class_names is .*; it must be a list, each a text"),
        ("task: {modle: 3}", "modle"),
        ("trainer: 3", "."),
        ("- 1", "holds no fields of an experiment"),
        ("a: [", "is no YAML"),
        ("\0", "is no YAML"),
    ],
)
def test_values_of_another_type_and_no_yaml(tmp_path, text, message):
    path = tmp_path / "a=b: {c}.yaml"  # What the Model Garden takes for fields.
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        configured(files=[str(path)])
    assert len(str(caught.value)) < 500


def test_files_by_any_name_and_flags_that_no_shell_has_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a=b.yaml", "x: y", "[1] *&!.yaml", "it's", "#"):
        (tmp_path / name).write_text("trainer: {train_steps: 7}")
        assert configured(files=[name]).trainer.train_steps == 7
        assert configured(name).trainer.train_steps == 7
    assert configured("'trainer.train_steps=9'").trainer.train_steps == 9
    assert configured("'{trainer: {train_steps: 8}}'").trainer.train_steps == 8
    with pytest.raises(UserError, match=r"cannot read none.yaml"):
        configured(files=["none.yaml"])
    with pytest.raises(UserError, match=r"neither A\.B=C,\.\.\. nor YAML nor a file"):
        configured("none.yaml")


@pytest.mark.parametrize("name", ["asvit_imagenet", "retinanet_asvit_coco", "segmentation_asvit_coco"])
def test_registered_experiments_have_the_types_that_they_declare(name):
    params = exp_factory.get_exp_config(name)
    params.task.model.input_size = list(params.task.model.input_size)
    experiment_files.check_types(params, exp_factory.get_exp_config(name))
