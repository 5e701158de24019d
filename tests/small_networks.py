"""Two networks for the tests of measures: a linear one for values by hand, and a block of attention and FFN.

The second one exists twice: in TensorFlow, as measures see it, and in NumPy, image by image and head by head in
float64, which shares no code with it. Differences of the latter are the oracle.
"""

import numpy as np
import scipy.special
import tensorflow as tf

from asvit_tf.measures.registry import ATTENTION, FFN, OTHER, STEM, Kernel, Network, Trace

WIDTH, HEADS, HIDDEN, CLASSES, TOKENS = 4, 2, 6, 3, 4
_SHAPES = {
    "stem": (12, WIDTH),
    "qkv": (WIDTH, 3 * WIDTH),
    "proj": (WIDTH, WIDTH),
    "fc1": (WIDTH, HIDDEN),
    "fc2": (HIDDEN, WIDTH),
    "head": (WIDTH, CLASSES),
    "bias": (HIDDEN,),
    "scale": (WIDTH,),
}
_ROLES = {"stem": STEM, "qkv": ATTENTION, "proj": ATTENTION, "fc1": FFN, "fc2": FFN}
KERNELS = (*_ROLES, "head")


def linear(first, second, head, roles=(OTHER, OTHER)):
    """Tokens x [B, H, W, 3] to x A to x A B; their mean over the tokens to logits. The blocks are x A and x A B."""
    a, b, head = (tf.Variable(np.asarray(each, np.float32)) for each in (first, second, head))

    def call(images):
        once = tf.einsum("bhwc,cd->bhwd", images, a)
        twice = tf.einsum("bhwc,cd->bhwd", once, b)
        features = tf.reduce_mean(twice, axis=(1, 2))
        return Trace(features, {"first": once, "second": twice}, {"first": once}, {"first": images})

    return Network(call, [Kernel(a, roles[0]), Kernel(b, roles[1])], (), head, call)


def weights(seed=0):
    """Of the block, float64."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape) / shape[0] ** 0.5 for name, shape in _SHAPES.items()}


def images(count, seed=1):
    """[count, 4, 4, 3] float32: four patches of 2 x 2."""
    return np.random.default_rng(seed).standard_normal((count, 4, 4, 3)).astype(np.float32)


def block(values):
    """The block in TensorFlow, with these weights."""
    v = {name: tf.Variable(value.astype(np.float32), name=name) for name, value in values.items()}

    def norm(x):
        centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
        return v["scale"] * centred * tf.math.rsqrt(tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True) + 1e-5)

    def through(norm):
        def call(pictures):
            patches = tf.transpose(tf.reshape(pictures, [-1, 2, 2, 2, 2, 3]), [0, 1, 3, 2, 4, 5])
            entry = tf.reshape(patches, [-1, TOKENS, 12]) @ v["stem"]
            parts = tf.split(norm(entry) @ v["qkv"], 3, axis=-1)
            q, k, u = (
                tf.transpose(tf.reshape(part, [-1, TOKENS, HEADS, WIDTH // HEADS]), [0, 2, 1, 3]) for part in parts
            )
            mixed = tf.nn.softmax(tf.matmul(q, k, transpose_b=True) / (WIDTH // HEADS) ** 0.5) @ u
            mixed = tf.reshape(tf.transpose(mixed, [0, 2, 1, 3]), [-1, TOKENS, WIDTH])
            attended = entry + mixed @ v["proj"]
            hidden = norm(attended) @ v["fc1"] + v["bias"]
            output = attended + tf.nn.gelu(hidden, approximate=False) @ v["fc2"]
            outputs, entries = {"attention": attended, "ffn": output}, {"attention": entry}
            return Trace(tf.reduce_mean(norm(output), axis=1), outputs, {"ffn": hidden}, entries)

        return call

    kernels = [Kernel(v[name], role) for name, role in _ROLES.items()]
    return Network(through(norm), kernels, [v["bias"], v["scale"]], v["head"], through(lambda x: x))


class Slow:
    """The block in NumPy, for one image after another, token by token.

    Args:
      values: Weights.
      bare: Leave the norms out.
    """

    def __init__(self, values, bare=False):
        self.v, self.bare = values, bare

    def norm(self, token):
        if self.bare:
            return token
        return self.v["scale"] * (token - token.mean()) / np.sqrt(token.var() + 1e-5)

    def stem(self, image):
        """[4, 4, 3] to tokens [4, C]."""
        corners = [(row, column) for row in (0, 2) for column in (0, 2)]
        return np.stack([image[r : r + 2, c : c + 2].ravel() @ self.v["stem"] for r, c in corners])

    def attention(self, tokens):
        """What leaves the attention, [4, C], from what enters it."""
        maps = np.stack([self.norm(token) @ self.v["qkv"] for token in tokens])
        mixed = np.zeros_like(tokens)
        side = WIDTH // HEADS
        for head in range(HEADS):
            q, k, u = (maps[:, part * WIDTH + head * side :][:, :side] for part in range(3))
            for i in range(len(tokens)):
                scores = np.array([q[i] @ k[j] for j in range(len(tokens))]) / side**0.5
                shares = np.exp(scores) / np.exp(scores).sum()
                mixed[i, head * side : (head + 1) * side] = sum(share * u[j] for j, share in enumerate(shares))
        return tokens + mixed @ self.v["proj"]

    def hidden(self, tokens):
        """What the GELU is given, [4, hidden], from what enters the FFN."""
        return np.stack([self.norm(token) @ self.v["fc1"] + self.v["bias"] for token in tokens])

    def ffn(self, tokens):
        """What leaves the FFN."""
        hidden = self.hidden(tokens)
        return tokens + (hidden * scipy.special.ndtr(hidden)) @ self.v["fc2"]

    def logits(self, image):
        """[classes]."""
        tokens = self.ffn(self.attention(self.stem(np.asarray(image, np.float64))))
        return np.mean([self.norm(token) for token in tokens], axis=0) @ self.v["head"]

    def loss(self, image, label):
        """Cross-entropy of one image."""
        logits = self.logits(image)
        return np.log(np.exp(logits).sum()) - logits[label]


def slope(function, values, name, step=1e-5):
    """Derivative of a function of weights by every number of one weight, by central differences."""
    result = np.zeros_like(values[name])
    for index in np.ndindex(result.shape):
        ends = []
        for sign in (1, -1):
            moved = {**values, name: values[name].copy()}
            moved[name][index] += sign * step
            ends.append(function(moved))
        result[index] = (ends[0] - ends[1]) / (2 * step)
    return result


def jacobian(function, x, step=1e-5):
    """[outputs, inputs], dense, by central differences."""
    columns = []
    for index in np.ndindex(x.shape):
        moved = np.zeros_like(x)
        moved[index] = step
        columns.append((function(x + moved) - function(x - moved)).ravel() / (2 * step))
    return np.stack(columns, axis=1)
