"""Finds a seed topology by training-free scores, by REINFORCE unless told otherwise.

    python search/reinforce.py --save_dir DIR --data_path IMAGES

The same as `asvit search`; `search.strategy.loop` is the search itself.
"""

import sys

from asvit_tf.cli import console, searching

if __name__ == "__main__":
    sys.exit(console.main(searching.search, name="reinforce.py"))
