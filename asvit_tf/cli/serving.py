"""The commands export and predict."""

from __future__ import annotations

import os
from typing import Any

import click

from asvit_tf.choices import INPUT_TYPES, TFLITE_TYPES
from asvit_tf.cli.console import AS_JSON, Choice, echo_skipped, only_result_on_stdout, print_json, quiet_tensorflow
from asvit_tf.cli.options import PathName


@click.command()
@click.argument("saved-model", type=PathName())
@click.argument("images", nargs=-1, required=True, type=PathName())
@click.option("--top", default=3, show_default=True, type=click.IntRange(min=1), help="Classes to print per image.")
@AS_JSON
def predict(saved_model: str, images: tuple[str, ...], top: int, as_json: bool) -> None:
    """Classifies IMAGES with SAVED_MODEL.

    Whatever Pillow reads is read, and set upright by EXIF; what cannot be read is skipped and named.
    """
    quiet_tensorflow()
    from asvit_tf.serving import predict as prediction

    with only_result_on_stdout():
        answers, skipped = prediction.predict(saved_model, images)
    if as_json:
        print_json(dict(predictions=answers, **skipped.as_dict()))
        return
    for answer in answers:
        ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])[:top]
        click.echo(f"{answer['image']}: " + ", ".join(f"{name} {share:.4f}" for name, share in ranked))
    echo_skipped(skipped.as_dict())


@click.command()
@click.option("--model-dir", required=True, type=PathName(), help="Directory that training wrote.")
@click.option("--export-dir", required=True, type=PathName(), help="Where the SavedModel goes.")
@click.option(
    "--input-type",
    type=Choice(INPUT_TYPES),
    default="image_bytes",
    show_default=True,
    help="What the SavedModel takes: encoded images, uint8 [batch, height, width, 3], or serialized examples. "
    "TensorFlow decodes them, and does not set them upright by EXIF; asvit predict and asvit detect do so before.",
)
@click.option(
    "--tflite",
    "tflite_type",
    type=Choice(TFLITE_TYPES),
    help="Write model.tflite into the directory too; int8 is calibrated on the training data.",
)
@click.option(
    "--checkpoint", type=PathName(), help="Checkpoint, or directory of some, instead of the newest of the training."
)
@AS_JSON
def export(as_json: bool, model_dir: str, export_dir: str, input_type: str, **options: Any) -> None:
    """Exports the newest checkpoint of a training as a SavedModel, for batches of any size, at all tokens.

    Where training averages the weights, the averages are exported. The network that asvit run reports is the best of
    all evaluations: --model-dir DIR/train --checkpoint DIR/train/best.
    """
    quiet_tensorflow()
    from asvit_tf.serving import export as exporting

    with only_result_on_stdout():
        params = exporting.read_params(model_dir)
        choice = exporting.choice_in_words(params, model_dir, options["checkpoint"])
        if choice is not None:
            click.echo(f"exporting {choice}", err=True)
        exporting.export(params, model_dir, export_dir, input_type, **options)
        checkpoint = exporting.checkpoint_of(params, model_dir, options["checkpoint"])
    tflite = None if options["tflite_type"] is None else os.path.join(export_dir, exporting.TFLITE_FILE)
    if as_json:
        print_json(dict(saved_model=export_dir, input_type=input_type, tflite=tflite, checkpoint=checkpoint))
    else:
        click.echo(f"saved model {export_dir}" + (f"\ntflite      {tflite}" if tflite else ""))
