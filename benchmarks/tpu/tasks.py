"""Compiles the whole training steps of detectors and segmenters for a v5e, and keeps what `asvit tpu-check` says.

python benchmarks/tpu/tasks.py                      # all rows that are not kept yet, minutes to an hour each
python benchmarks/tpu/tasks.py "RetinaNet Small at 640, 8"

Rows are in benchmarks/results/tpu_tasks.jsonl: what the command printed, under a name, which ends in the images on a
chip. A batch that does not fit is kept, too, with the compiler's message.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tpu_tasks.jsonl"


def _command(experiment: str, size: str, batch: int, recipe: str | None = None, *fields: str) -> str:
    files = [f"asvit_{size}.yaml", "tpu.yaml", *([f"coco/{recipe}.yaml"] if recipe else [])]
    yamls = " ".join(f"--config_file official_configs/{file}" for file in files)
    overrides = f" --params_override {','.join(fields)}" if fields else ""
    return f"asvit tpu-check --experiment {experiment} {yamls} --batch {batch}{overrides}"


def _cascade(size: str, batch: int, *options: str) -> str:
    fields = (f"task.model.backbone.asvit.{option}" for option in options)
    return _command("cascadercnn_asvit_coco", size, batch, "cascadercnn_i1024_batch64", *fields)


_WHOLE, _CHUNKED, _BLOCKS = "attention=whole", "attention=chunked", "recompute=blocks"
COMMANDS = {
    # Its experiment hands over images in float32, the detectors' in bfloat16.
    "Segmentation Small at 512, 8": _command(
        "segmentation_asvit_coco", "small", 8, None, "task.train_data.dtype=bfloat16"
    ),
    "RetinaNet Small at 640, 8": _command("retinanet_asvit_coco", "small", 8),
    "RetinaNet Small at 1024, 2": _command("retinanet_asvit_coco", "small", 2, "retinanet_i1024_batch64"),
    "Cascade Mask R-CNN Small at 1024, whole, 2": _cascade("small", 2, _WHOLE),
    "Cascade Mask R-CNN Small at 1024, chunked, 2": _cascade("small", 2, _CHUNKED),
    "Cascade Mask R-CNN Base at 1024, chunked, 2": _cascade("base", 2, _CHUNKED),
    "Cascade Mask R-CNN Large at 1024, chunked, 2": _cascade("large", 2, _CHUNKED),
    "Cascade Mask R-CNN Large at 1024, chunked, blocks, 2": _cascade("large", 2, _CHUNKED, _BLOCKS),
    "Mask R-CNN ResNet-50 at 1024, 2": "asvit tpu-check --experiment maskrcnn_resnetfpn_coco --batch 2",
}


def main(names: list[str]) -> None:
    kept = {json.loads(line)["name"] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    for name in names or [name for name in COMMANDS if name not in kept]:
        command = COMMANDS[name]
        # Status 1: it does not compile, which is an answer.
        process = subprocess.run(
            [sys.executable, "-m", "asvit_tf.cli", *shlex.split(command)[1:], "--json"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        if process.returncode > 1:
            sys.exit(process.returncode)
        with RESULTS.open("a") as file:
            file.write(json.dumps({"name": name, "command": f"{command} --json", **json.loads(process.stdout)}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
