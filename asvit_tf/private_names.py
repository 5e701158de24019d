"""What this package uses of other libraries without their promise to keep it, each name in one place.

Where a call is enough, it is a function here. What a subclass has to override, or to read of itself, stays there.
`NAMES` lists both; tests/test_private_names.py fails by name when a library moves one, or when the code uses another.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any

# The name as module:path; of a function its parameters, of a value the functions that set and read it.
NAMES: dict[str, tuple[str, ...]] = {
    # Called here.
    "tensorflow.python.framework.config:is_op_determinism_enabled": (),
    "tensorflow.python.eager.record:stop_recording": (),
    "tensorflow.python.framework.ops:gradient_registry._registry": (
        "tensorflow.python.framework.registry:Registry.register",
    ),
    "tf_keras.layers:Layer._flatten_layers": ("self", "recursive", "include_self"),
    "tf_keras.optimizers.legacy:Optimizer._create_all_weights": ("self", "var_list"),
    "joblib.externals.loky.process_executor:_MAX_MEMORY_LEAK_SIZE": (
        "joblib.externals.loky.process_executor:_process_worker",
    ),
    "joblib.externals.loky:get_reusable_executor": (
        *("max_workers", "context", "timeout", "kill_workers", "reuse", "job_reducers", "result_reducers"),
        *("initializer", "initargs", "env"),
    ),
    "jax.interpreters.mlir:make_ir_context": (),
    "jaxlib.mlir.ir:Module.parse": (),
    "jaxlib.mlir.ir:MLIRError": (),
    "jaxlib.xla_client:CompileOptions": (),
    "jaxlib.xla_client:DeviceList": (),
    # Replaced for a while by `records_read_by`: every task of the Model Garden asks it, by this name, how to read.
    "official.common.dataset_fn:pick_dataset_fn": ("file_type",),
    "official.vision.tasks.image_classification:dataset_fn.pick_dataset_fn": ("file_type",),
    "official.vision.tasks.retinanet:dataset_fn.pick_dataset_fn": ("file_type",),
    "official.vision.tasks.maskrcnn:dataset_fn_lib.pick_dataset_fn": ("file_type",),
    "official.vision.tasks.semantic_segmentation:dataset_fn.pick_dataset_fn": ("file_type",),
    # Replaced for a while by `crops_of`.
    "official.vision.dataloaders.classification_input:Parser": (
        *("output_size", "num_classes", "image_field_key", "label_field_key", "decode_jpeg_only", "aug_rand_hflip"),
        *("aug_crop", "aug_type", "color_jitter", "random_erasing", "is_multilabel", "dtype", "crop_area_range"),
        *("center_crop_fraction", "tf_resize_method", "three_augment"),
    ),
    "official.vision.tasks.image_classification:classification_input.Parser": (),
    # Raised by joblib: search/runs/workers.py.
    "joblib.externals.loky.process_executor:TerminatedWorkerError": (),
    # Overridden or read by a subclass: asvit_tf/training/runner.py, trainer.py, saving/sound.py and
    # asvit_tf/serving/modules.py.
    "tensorflow.python.checkpoint.checkpoint_management:CheckpointManager._last_checkpoint_step": (
        "tensorflow.python.checkpoint.checkpoint_management:CheckpointManager.__init__",
        "tensorflow.python.checkpoint.checkpoint_management:CheckpointManager.save",
        "tensorflow.python.checkpoint.checkpoint_management:CheckpointManager.restore_or_initialize",
    ),
    "official.core.train_lib:OrbitExperimentRunner._mode": (
        "official.core.train_lib:OrbitExperimentRunner.__init__",
        "official.core.train_lib:OrbitExperimentRunner.run",
    ),
    "official.core.train_lib:OrbitExperimentRunner._maybe_build_checkpoint_manager": ("self",),
    "official.core.base_trainer:Trainer._checkpoint_exporter": (
        "official.core.base_trainer:Trainer.__init__",
        "official.core.base_trainer:Trainer.eval_end",
    ),
    "official.vision.serving.export_base:ExportModule._num_channels": (
        "official.vision.serving.export_base:ExportModule.__init__",
    ),
    "official.vision.serving.export_base:ExportModule._input_image_size": (
        "official.vision.serving.export_base:ExportModule.__init__",
    ),
    "official.vision.serving.export_base:ExportModule._input_type": (
        "official.vision.serving.export_base:ExportModule.__init__",
    ),
    "official.vision.serving.image_classification:ClassificationModule._build_inputs": ("self", "image"),
    "official.vision.serving.image_classification:ClassificationModule._decode_image": ("self", "encoded_image_bytes"),
    "official.vision.serving.image_classification:ClassificationModule._crop_and_resize": ("self", "image"),
    "official.vision.serving.image_classification:ClassificationModule._decode_tf_example": (
        "self",
        "tf_example_string_tensor",
    ),
    "official.vision.serving.detection:DetectionModule._build_inputs": ("self", "image"),
    "official.vision.serving.detection:DetectionModule._decode_image": ("self", "encoded_image_bytes"),
    "official.vision.serving.semantic_segmentation:SegmentationModule._build_inputs": ("self", "image"),
    "official.vision.serving.semantic_segmentation:SegmentationModule._decode_image": ("self", "encoded_image_bytes"),
}


class MalformedProgramError(Exception):
    """A text that is no StableHLO program; the message says why."""


def gradient_registry() -> MutableMapping[str, Any]:
    """TensorFlow's gradients by name; `tf.custom_gradient` adds one for every use inside a graph."""
    from tensorflow.python.framework import ops

    return ops.gradient_registry._registry


def operations_are_deterministic() -> bool:
    """Whether TF_DETERMINISTIC_OPS or `enable_op_determinism` asks for it; it can be set in public, but not read."""
    from tensorflow.python.framework import config

    return config.is_op_determinism_enabled()


def nothing_recorded() -> contextlib.AbstractContextManager[None]:
    """Keeps what runs inside from all tapes, which can be stopped in public only one by one."""
    from tensorflow.python.eager import record

    return record.stop_recording()


def layers_of(layer: Any) -> list[Any]:
    """A Keras layer and all inside it, in the order of their creation as attributes."""
    return list(layer._flatten_layers())


def create_weights(optimizer: Any, variables: Sequence[Any]) -> None:
    """Creates step and moments of a legacy Keras optimizer, whose public methods create them in the first step."""
    optimizer._create_all_weights(variables)


@contextlib.contextmanager
def records_read_by(change: Callable[[Callable], Callable]) -> Iterator[None]:
    """Has the Model Garden's tasks read records another way inside; its reader takes one, but its tasks pass none on.

    Args:
      change: From how it reads, names of files to a data set of records, to how it shall.
    """
    from official.common import dataset_fn

    pick = dataset_fn.pick_dataset_fn
    dataset_fn.pick_dataset_fn = lambda file_type: change(pick(file_type))
    try:
        yield
    finally:
        dataset_fn.pick_dataset_fn = pick


@contextlib.contextmanager
def crops_of(area_range: Sequence[float]) -> Iterator[None]:
    """Has the Model Garden's classification crop as `crop_area_range` says inside; its task passes it to no parser.

    Args:
      area_range: Least and largest share of a training image's area.
    """
    from official.vision.dataloaders import classification_input

    parser = classification_input.Parser
    classification_input.Parser = functools.partial(parser, crop_area_range=tuple(area_range))
    try:
        yield
    finally:
        classification_input.Parser = parser


def let_workers_grow(size: float) -> None:
    """Sets the bytes by which a process of joblib may grow before it is ended and begun anew; call it there."""
    from joblib.externals.loky import process_executor

    process_executor._MAX_MEMORY_LEAK_SIZE = size


def end_workers() -> None:
    """Ends the processes of joblib, which would wait for more work for minutes; call it in their parent."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor(reuse=True).shutdown(wait=True)


def parse_stablehlo(text: str) -> Any:
    """A program as jax's compilers take it.

    Raises:
      MalformedProgramError: The text is no program.
    """
    from jax.interpreters import mlir
    from jaxlib.mlir import ir

    try:
        with mlir.make_ir_context():
            return ir.Module.parse(text)
    except ir.MLIRError as error:
        raise MalformedProgramError(str(error)) from error


def compile_stablehlo(device: Any, text: str) -> Any:
    """A program compiled for one device of a jax topology; jax's public way takes functions, not text.

    Raises:
      JaxRuntimeError: It does not compile.
      MalformedProgramError: The text is no program.
    """
    from jaxlib import xla_client

    module = parse_stablehlo(text)
    options = xla_client.CompileOptions()
    options.num_replicas = options.num_partitions = 1
    return device.client.compile(module, xla_client.DeviceList((device,)), options)
