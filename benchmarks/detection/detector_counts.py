"""Parameters and multiply-adds of the whole Cascade Mask R-CNN on As-ViT Large at 1024 x 1024, part by part.

    python benchmarks/detection/detector_counts.py [--yaml NAME ...] [--side PIXELS] [--topology TOPOLOGY]

One image forward: the backbone, FPN, RPN, three box heads on 1000 proposals each, the mask head on 100 detections.
The convolutions and matrix products of the traced graph are counted by TensorFlow's own registered statistics, without
freezing weights into the graph. With --why the Model Garden's own `try_count_flops` runs too, and what stops it is
shown. The row goes to benchmarks/results/detector_counts.jsonl.
"""

import argparse
import collections
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from absl import logging
from official.core import exp_factory, task_factory, train_utils  # The last registers the statistics of Einsum.
from official.modeling import hyperparams
from tensorflow.python.framework import ops

from asvit_tf import registry_imports  # noqa: F401
from asvit_tf.design import counting
from asvit_tf.design.topology import Topology

CONFIGS = Path(__file__).parents[2] / "official_configs"
RESULTS = Path(__file__).parents[1] / "results" / "detector_counts.jsonl"
PUBLISHED = dict(parameters=138.8e6, macs=1094.2e9)
COUNTED = ("Conv2D", "Conv2DBackpropInput", "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")


def parts_of(model):
    """The detector's own parts, by name."""
    return dict(
        backbone=[model.backbone],
        fpn=[model.decoder],
        rpn=[model.rpn_head],
        box_heads=list(model.detection_head),
        mask_head=[model.mask_head],
    )


def macs_of(operation):
    """Multiply-adds of one operation of the graph; 0 for what is neither convolution nor matrix product."""
    if operation.type not in COUNTED:
        return 0
    if operation.type == "Conv2DBackpropInput":  # The mask head's upsampling: every input pixel meets the whole kernel.
        kernel, pixels = operation.inputs[1].shape, operation.inputs[2].shape
        return pixels[0] * pixels[1] * pixels[2] * kernel.num_elements()
    flops = ops.get_stats_for_node_def(operation.graph, operation.node_def, "flops").value
    if flops is None:
        raise ValueError(f"{operation.name} has a shape that is not known before it runs")
    return flops // 2


def registered_flops(operation):
    """What TensorFlow's profiler has registered for an operation of any kind, element by element ones too; else 0."""
    try:
        return ops.get_stats_for_node_def(operation.graph, operation.node_def, "flops").value or 0
    except (ValueError, AssertionError):
        return 0  # A shape that is not known before it runs.


def owner(operation, layers):
    """The part an operation belongs to: the outermost of the layers whose name is in its path."""
    path = operation.name.split("/")
    return next((layers[name] for name in path if name in layers), "other")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--yaml", nargs="+", default=["asvit_large", "coco/cascadercnn_i1024_batch64"])
    parser.add_argument("--side", type=int, help="Pixels, instead of the YAMLs'.")
    parser.add_argument("--topology", help="Instead of the YAMLs'.")
    parser.add_argument("--why", action="store_true", help="Show what stops the Model Garden's own count.")
    options = parser.parse_args()
    params = exp_factory.get_exp_config("cascadercnn_asvit_coco")
    for name in options.yaml:
        params = hyperparams.override_params_dict(params, str(CONFIGS / f"{name}.yaml"), is_strict=True)
    config = params.task.model
    if options.side:
        config.input_size = [options.side, options.side, 3]
    if options.topology:
        config.backbone.asvit.topology = options.topology
    model = task_factory.get_task(params.task).build_model()
    height, width = config.input_size[:2]

    @tf.function(autograph=False)
    def detect(images, image_shape):
        answer = model(images, image_shape=image_shape, training=False)
        return {name: value for name, value in answer.items() if name.startswith("detection_")}

    specs = dict(images=tf.TensorSpec((1, height, width, 3), tf.float32), image_shape=tf.TensorSpec((1, 2), tf.float32))
    graph = detect.get_concrete_function(**specs).graph
    parts = parts_of(model)
    layers = {layer.name: part for part, members in parts.items() for layer in members}
    macs = collections.Counter()
    half_flops = 0
    for operation in graph.get_operations():
        macs[owner(operation, layers)] += macs_of(operation)
        half_flops += registered_flops(operation) // 2
    parameters = {
        part: sum(weight.shape.num_elements() for layer in members for weight in layer.trainable_weights)
        for part, members in parts.items()
    }
    position = model.backbone.position_embedding
    backbone = counting.count(
        Topology.parse(config.backbone.asvit.topology), (height, width), window="fixed", representation=False
    )
    row = dict(
        yaml=options.yaml,
        topology=config.backbone.asvit.topology,
        input_size=[height, width],
        parameters=parameters,
        parameters_total=sum(weight.shape.num_elements() for weight in model.trainable_weights),
        position_embedding=0 if position is None else position.embedding.shape.num_elements(),
        macs={part: int(number) for part, number in macs.items()},
        macs_total=int(sum(macs.values())),
        half_of_all_registered_flops=int(half_flops),
        backbone_by_counting=sum(stage.macs for stage in backbone.stages),
        proposals=config.roi_generator.test_num_proposals,
        detections=config.detection_generator.max_num_detections,
        published=PUBLISHED,
    )
    print(json.dumps(row, indent=1))
    if options.why:
        logging.set_verbosity(logging.INFO)
        print(train_utils.try_count_flops(model, {**specs, "training": False}))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
