"""`python -m asvit_tf.train`, the same as `asvit train`; and `run`, which trains an experiment from Python."""

import sys

if __name__ == "__main__":
    # First, because it sets what TensorFlow reads when it is imported.
    from asvit_tf.cli import console, training

    sys.exit(console.main(training.train, name="asvit train"))

from asvit_tf.training.run import run, start

__all__ = ["run", "start"]
