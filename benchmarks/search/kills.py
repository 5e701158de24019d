"""Search and growth killed at random moments end with the same trace and result as unbroken ones.

    python benchmarks/search/kills.py

Both commands at 16 x 16, killed by SIGKILL five times each, at moments drawn from a seed, and started again at once.
"""

import json
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

KILLS = 5
SMALL = ["--dataset", "noise", "--image_size", "16", "--batch_size", "4", "--repeat", "1", "--points", "4"]
COMMANDS = {
    "search": ["search", *SMALL, "--total_steps", "60"],
    "growth": ["grow", *SMALL, "--arch", "4,2,2|2,1,2|2,1,2|2,1,2|16", "--width=16", "--proxy-divisor=2"]
    + ["--num-classes", "10", "--stop-parameters", "0.6", "--workers", "2"],
}


def start(command, directory):
    arguments = [sys.executable, "-m", "asvit_tf.cli", *command, "--save_dir", str(directory)]
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kept(directory):
    """Everything but seconds."""
    lines = [line for name in ("trace", "scores") for line in (directory / f"{name}.jsonl").read_text().splitlines()]
    rows = map(json.loads, lines)
    rows = [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]
    return rows, json.loads((directory / "result.json").read_text())


def main():
    moments = random.Random(0)
    root = Path(tempfile.mkdtemp())
    for name, command in COMMANDS.items():
        unbroken, killed = root / name, root / f"{name} killed"
        assert start(command, unbroken).wait() == 0
        at = []
        while len(at) < KILLS:
            process = start(command, killed)
            seconds = moments.uniform(6, 22)
            try:
                process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                scores = killed / "scores.jsonl"
                at.append((round(seconds, 1), len(scores.read_text().splitlines()) if scores.exists() else 0))
        assert start(command, killed).wait() == 0
        print(
            f"{name}: killed after (seconds, scores kept) {at}; the same: {kept(killed) == kept(unbroken)}", flush=True
        )
    shutil.rmtree(root)


if __name__ == "__main__":
    main()
