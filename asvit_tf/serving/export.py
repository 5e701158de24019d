"""Exports a trained network as a SavedModel, a classifier also for TFLite, that need nothing of this package."""

from __future__ import annotations

import os
import shlex

import tensorflow as tf
import yaml
from official.core import config_definitions as cfg
from official.core import train_utils

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.errors import UserError
from asvit_tf.modeling import checkpoints
from asvit_tf.serving import modules, tflite
from asvit_tf.storage import whole_directory, write_text
from asvit_tf.tasks import checks, classification, experiment_files
from asvit_tf.training.saving import best

TFLITE_FILE = "model.tflite"


def read_params(model_dir: str) -> cfg.ExperimentConfig:
    """The experiment that a training in `model_dir` wrote down.

    Raises:
      UserError: There is none.
    """
    path = os.path.join(model_dir, "params.yaml")
    if not tf.io.gfile.exists(path):
        raise UserError(f"no params.yaml in {model_dir}; expected a directory that training wrote")
    try:
        with tf.io.gfile.GFile(path) as file:
            # The Model Garden's reader takes a class name such as 1e3 for a number; this one leaves words as they are.
            task = yaml.load(file, Loader=yaml.BaseLoader)["task"]
        kind = next(kind for part, (kind, _) in modules.KINDS.items() if part in task["model"])
        params = cfg.ExperimentConfig(task=kind())
        experiment_files.override(params, experiment_files.read(path), path, is_strict=False)
        params.task.class_names = task["class_names"]
    except UserError:
        raise
    except (yaml.YAMLError, KeyError, TypeError, ValueError, StopIteration) as error:
        raise UserError(f"{path} is not what training writes: {error}") from error
    return params


def export(
    params: cfg.ExperimentConfig,
    model_dir: str,
    export_dir: str,
    input_type: str = "image_bytes",
    tflite_type: str | None = None,
    checkpoint: str | None = None,
) -> str:
    """Writes the SavedModel of the newest checkpoint, complete or not at all.

    Where training averaged the weights, that is the newest checkpoint of the averages.

    Args:
      params: The experiment that trained it.
      model_dir: Its checkpoints.
      export_dir: Where the SavedModel goes; an older one there is replaced.
      input_type: "image_bytes" (encoded images), "image_tensor" (uint8 [B, H, W, 3]) or "tf_example".
      checkpoint: Another checkpoint instead, or a directory of some, such as that of the best.
      tflite_type: One of `TFLITE_TYPES`: write `model.tflite` into the directory too.

    Returns:
      `export_dir`.

    Raises:
      UserError: There is no checkpoint, it is damaged, or something else than a SavedModel is in the way.
      StoppedError: The disk is full.
    """
    if tf.io.gfile.exists(export_dir) and not tf.io.gfile.exists(os.path.join(export_dir, "saved_model.pb")):
        raise UserError(f"{export_dir} exists and is not a SavedModel; choose another export directory")
    if tflite_type is not None and not isinstance(params.task, classification.ClassificationTask):
        raise UserError("TFLite is for classifiers here; other networks are exported as a SavedModel")
    checkpoint = checkpoint_of(params, model_dir, checkpoint)
    if tflite_type == "int8":
        checks.classification.check(params.task, "train_data")  # It calibrates with it.
    # Nothing is drawn; but where TensorFlow's operations are deterministic, dropout cannot be traced without a seed.
    tf.random.set_seed(params.task.seed or 0)
    module = modules.serving_module(params, input_type)
    with whole_directory(export_dir) as partial, checkpoints.damage_explained(checkpoint):
        read = tf.train.Checkpoint(model=module.model).read(checkpoints.readable(checkpoint))
        read.assert_existing_objects_matched().expect_partial()
        signatures = module.get_inference_signatures({input_type: "serving_default"})
        tf.saved_model.save(modules.weights_alone(module), partial, signatures)
        train_utils.serialize_config(params, partial)
        write_text(os.path.join(partial, modules.LABELS_FILE), modules.labels_text(params))
        if tflite_type is not None:
            with tf.io.gfile.GFile(os.path.join(partial, TFLITE_FILE), "wb") as file:
                file.write(tflite.convert(module, tflite_type))
    return export_dir


def checkpoint_of(params: cfg.ExperimentConfig, model_dir: str, given: str | None = None) -> str:
    """Path of the checkpoint that `export` takes; arguments and errors as there, `given` being its `checkpoint`."""
    if given is not None and not tf.io.gfile.isdir(given):
        if not tf.io.gfile.exists(given + ".index"):
            raise UserError(f"no checkpoint at {given}")
        return given
    place = given or model_dir
    averaged = given is None and params.trainer.optimizer_config.ema is not None
    if averaged:
        place = os.path.join(model_dir, "ema_checkpoints")
    newest = checkpoints.newest(place)
    if newest is None and averaged and checkpoints.newest(model_dir) is not None:
        raise UserError(
            f"training averages the weights, and an evaluation saves the averages, but there are none in {place}; run "
            f"asvit evaluate first, or give --checkpoint {model_dir} for the weights that are not averaged"
        )
    if newest is None:
        raise UserError(f"no checkpoint in {place}; train first")
    return newest


def choice_in_words(params: cfg.ExperimentConfig, model_dir: str, given: str | None = None) -> str | None:
    """Which step `export` takes, where training kept its best network beside the newest; None where it did not.

    Args: as `checkpoint_of`, whose errors it raises.
    """
    found = best.read(model_dir)
    if found is None:
        return None
    taken = checkpoint_of(params, model_dir, given)
    if os.path.realpath(taken) == os.path.realpath(found.checkpoint):
        return f"step {found.step}, the best of all evaluations"
    which = taken if given else f"step {checkpoints.step_of(taken)}, the newest"
    if not given and checkpoints.step_of(taken) == found.step:
        return f"{which} and the best of all evaluations"
    beside = os.path.join(model_dir, best.SUBDIRECTORY)
    return f"{which}; the best of all evaluations is that of step {found.step}: --checkpoint {shlex.quote(beside)}"
