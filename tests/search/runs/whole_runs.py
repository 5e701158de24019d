"""What the tests of whole runs share: a folder of images, the command, records with wrong labels."""

import json
import time

import numpy as np
import tensorflow as tf
from search_helpers import coloured_digits

OPTIONS = [
    *("--image-size", "16", "--search-steps", "2", "--repeats", "1", "--score-batch", "2", "--budget", "0.45"),
    *("--epochs", "3", "--batch-size", "8", "--seed", "3"),
]


def image_folder(root):
    """`coloured_digits`, and a broken file."""
    coloured_digits(root)
    (root / "one" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    return root


def command(folder, output):
    return ["run", "--output", str(output), "--data-path", str(folder), *OPTIONS, "--json"]


def wait_for(process, condition, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, "ended before it could be killed"
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("nothing to kill appeared")


def rows_without_seconds(path):
    rows = map(json.loads, path.read_text().splitlines())
    return [{name: value for name, value in row.items() if name not in ("seconds", "split")} for row in rows]


def stamps(directory):
    """When each file was written, but for the report."""
    files = (path for path in directory.rglob("*") if path.is_file() and path.name not in (".lock", "report.html"))
    return {path: path.stat().st_mtime_ns for path in files}


def with_shuffled_labels(source, target):
    """Records of the same images, every one with another's label."""
    records = [tf.train.Example.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(source))]
    values = [record.features.feature["image/class/label"].int64_list.value for record in records]
    labels = np.random.default_rng(0).permutation([value[0] for value in values])
    with tf.io.TFRecordWriter(str(target)) as writer:
        for record, value, label in zip(records, values, labels):
            value[:] = [int(label)]
            writer.write(record.SerializeToString())


SERVE = """
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("asvit_tf", "search", "official"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
try:
    import asvit_tf
    sys.exit("asvit_tf can be imported")
except ImportError:
    pass
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
answer = serve(inputs=tf.constant([open(path, "rb").read() for path in sys.argv[2:]]))
def plain(value):
    return [plain(each) for each in value] if isinstance(value, list) else getattr(value, "decode", lambda: value)()
print(json.dumps({name: plain(value.numpy().tolist()) for name, value in answer.items()}))
"""

# Files of a finished run, what is written into them, and what asvit report says of it.
DAMAGED = [
    ("result.json", "{", "result.json is damaged: Expecting"),
    ("result.json", '{"accuracy": 1}', "is of an earlier version, which kept less; evaluate it again with: asvit run"),
    ("predictions/validation.npz", "x", "validation.npz is damaged; remove it, and asvit report makes it again"),
    ("serving/result.json", "[", "serving/result.json is damaged; remove it, and asvit report makes it again"),
    ("grow/result.json", "", "grow/result.json is damaged: Expecting"),
    ("data/dataset.json", "[]", "data/dataset.json is damaged"),
    ("settings.json", "]", "settings.json is damaged"),
    ("train/params.yaml", ":", "params.yaml is not what training writes"),
    ("search/trace.jsonl", "x\n", "line 1 of"),
]
