"""Growth of a seed topology, in depth and width, into a family of sizes (Algorithm 2).

    python search/grow.py --save_dir DIR --arch TOPOLOGY --data_path IMAGES

The same as `asvit grow`; `search.strategy.growth` is the growth itself.
"""

import sys

from asvit_tf.cli import console, searching

if __name__ == "__main__":
    sys.exit(console.main(searching.grow, name="grow.py"))
