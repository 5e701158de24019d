"""`python -m asvit_tf.train`, the same as `asvit train`; and `run`, which trains an experiment from Python."""

import json
import sys

from asvit_tf.training.run import run, start

__all__ = ["run", "start"]

if __name__ == "__main__":
    print(json.dumps(start(sys.argv[1:])))
