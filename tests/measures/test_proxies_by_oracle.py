"""Published measures of a block of attention and FFN, against slow computations of another kind in float64."""

import itertools
import math

import numpy as np
import pytest
import small_networks
import tensorflow as tf
from small_networks import KERNELS, TOKENS, WIDTH, Slow, block, jacobian, slope

from asvit_tf.measures import passes
from asvit_tf.measures.registry import Programs

IMAGES, LABELS, SEED = small_networks.images(5), np.array([0, 2, 1, 1, 0]), 7
VALUES = small_networks.weights()
SLOW = Slow(VALUES)


@pytest.fixture(scope="module")
def measured():
    names = ("expressivity", "progressivity", "trainability", "dss", "synflow", "gradient_norm", "snip", "zico")
    network = block(VALUES)
    before = [variable.numpy() for variable in (*network.variables, *network.others)]
    found = Programs(network).measure([*names, "naswot", "l_swag"], IMAGES, LABELS, SEED)
    for variable, value in zip((*network.variables, *network.others), before):
        np.testing.assert_array_equal(variable, value)  # Two measures replace them for a while.
    assert all(each.reason is None and each.seconds > 0 for each in found.values())
    return {name: each.value for name, each in found.items()}


def slow_outputs():
    """[images * tokens, C] behind attention and FFN."""
    attended = [SLOW.attention(SLOW.stem(image.astype(np.float64))) for image in IMAGES]
    return np.concatenate(attended), np.concatenate([SLOW.ffn(tokens) for tokens in attended])


def slow_entropy(tokens):
    covariance = np.zeros((WIDTH, WIDTH))
    for token in tokens:
        covariance += np.outer(token - tokens.mean(0), token - tokens.mean(0)) / len(tokens)
    shares = np.linalg.svd(covariance, compute_uv=False)
    shares /= shares.sum()
    return -sum(share * math.log(share) for share in shares)


def test_the_block_is_the_same_in_both_libraries():
    network = block(VALUES)
    trace = network.call(IMAGES)
    for slow, fast in zip(slow_outputs(), trace.outputs.values()):
        np.testing.assert_allclose(slow.reshape(fast.shape), fast, atol=2e-5)
    logits = network.logits(trace.features)
    np.testing.assert_allclose([SLOW.logits(image) for image in IMAGES], logits, atol=2e-5)


def test_entropies(measured):
    first, second = map(slow_entropy, slow_outputs())
    assert measured["expressivity"] == pytest.approx(first + second, rel=1e-4)
    assert measured["progressivity"] == pytest.approx(second - first, rel=1e-3)


def dense_jacobians(image):
    """Of attention and FFN, [4 C, 4 C] each."""
    entry = SLOW.stem(image.astype(np.float64))
    attended = SLOW.attention(entry)
    return jacobian(SLOW.attention, entry), jacobian(SLOW.ffn, attended)


def test_products_with_signs_are_those_of_dense_jacobians(measured):
    scores = []
    for number in range(2):
        signs = tf.random.stateless_uniform((len(IMAGES), TOKENS, WIDTH), [SEED, number]).numpy()
        signs = np.where(signs < 0.5, 1.0, -1.0)
        mean = np.zeros((WIDTH, WIDTH))
        for image, of_image in zip(IMAGES, signs):
            moved = (dense_jacobians(image)[number] @ of_image.ravel()).reshape(TOKENS, WIDTH)
            for out, sign in zip(moved, of_image):
                mean += np.outer(out - sign, sign) / (len(IMAGES) * TOKENS)
        sigma = np.linalg.svd(np.eye(WIDTH) + mean, compute_uv=False).max()
        scores.append(-sigma - 1 / sigma + 2)
    assert measured["trainability"] == pytest.approx(np.mean(scores), rel=1e-4)


def test_products_with_many_signs_tend_to_the_mean_jacobian_of_a_token():
    blocks = [
        jacobian_of_token
        for image in IMAGES
        for jacobian_of_token in (
            dense_jacobians(image)[0][i : i + WIDTH, i : i + WIDTH] for i in range(0, TOKENS * WIDTH, WIDTH)
        )
    ]
    program = passes._products(block(VALUES))
    drawn = [program(tf.constant(IMAGES), tf.constant(seed)).jacobians["attention"].numpy() for seed in range(300)]
    np.testing.assert_allclose(np.mean(drawn, axis=0), np.mean(blocks, axis=0), atol=0.05)
    # The signs of the identity alone would scatter by about 1 / sqrt(20); 4 standard errors of it are 0.05.
    assert np.std(drawn, axis=0).max() < 0.2


def slow_gradients():
    """[images, ...] of the loss of every image by every kernel."""
    return {
        name: np.stack([slope(lambda v, i=i: Slow(v).loss(IMAGES[i], LABELS[i]), VALUES, name) for i in range(5)])
        for name in KERNELS
    }


@pytest.fixture(scope="module")
def gradients():
    return slow_gradients()


def test_gradient_norm_and_snip(measured, gradients):
    means = {name: np.mean(each, axis=0) for name, each in gradients.items()}
    norms = [math.sqrt(sum(g**2 for g in mean.ravel())) for mean in means.values()]
    assert measured["gradient_norm"] == pytest.approx(sum(norms), rel=1e-4)
    saliency = [abs(w * g) for name, mean in means.items() for w, g in zip(VALUES[name].ravel(), mean.ravel())]
    assert measured["snip"] == pytest.approx(sum(saliency), rel=1e-4)


def sums(gradients, term):
    """log sum_w term(mean |g|, std g) of every layer; here every gradient deviates."""
    for of_layer in gradients.values():
        rows = of_layer.reshape(len(of_layer), -1).T
        yield math.log(sum(term(np.mean(np.abs(row)), np.std(row)) for row in rows))


def test_zico(measured, gradients):
    assert measured["zico"] == pytest.approx(sum(sums(gradients, lambda size, std: size / std)), rel=1e-4)


def slow_hidden():
    """[images, units] of the GELU's input."""
    return np.stack([SLOW.hidden(SLOW.attention(SLOW.stem(image.astype(np.float64)))).ravel() for image in IMAGES])


def test_l_swag(measured, gradients):
    patterns = {tuple(unit > 0) for unit in slow_hidden().T}
    slopes = sum(sums(gradients, lambda size, std: 1 / std))
    assert 1 < len(patterns) < 2 ** len(IMAGES)
    assert measured["l_swag"] == pytest.approx(slopes * len(patterns), rel=1e-4)


def test_naswot(measured):
    on = slow_hidden() > 0
    kernel = np.zeros((len(IMAGES),) * 2)
    for i, j in itertools.product(range(len(IMAGES)), repeat=2):
        kernel[i, j] = sum(one == other for one, other in zip(on[i], on[j]))
    sign, logarithm = np.linalg.slogdet(kernel)
    assert sign == 1
    assert measured["naswot"] == pytest.approx(logarithm, rel=1e-9)


def test_synflow(measured):
    """The network without norms at a black image, by differences: first along the image, then by every weight."""
    values = {name: np.abs(value) for name, value in VALUES.items()}
    values["bias"] = np.zeros_like(values["bias"])
    ones, step = np.ones((4, 4, 3)), 1e-4

    def flow(v):
        there, back = (Slow(v, bare=True).logits(sign * step * ones).sum() for sign in (1, -1))
        return (there - back) / (2 * step)

    total = sum(np.sum(values[name] * slope(flow, values, name, step=1e-4)) for name in KERNELS)
    assert measured["synflow"] == pytest.approx(math.log(total), rel=1e-5)


def test_dss(measured):
    """VALUES has scales of norms below 0: they, too, are taken by their absolute value."""
    assert VALUES["scale"].min() < 0
    values = {name: np.abs(value) for name, value in VALUES.items()}

    def total(v):
        return Slow(v).logits(np.ones((4, 4, 3))).sum()

    by = {name: slope(total, values, name) for name in KERNELS}
    nuclear = [np.linalg.svd(by[n])[1].sum() * np.linalg.svd(values[n])[1].sum() for n in ("qkv", "proj")]
    salient = [np.abs(by[name] * values[name]).sum() for name in ("fc1", "fc2", "head")]
    assert measured["dss"] == pytest.approx(sum(nuclear) + sum(salient), rel=1e-3)


def test_what_is_drawn_depends_on_the_seed_only():
    programs = Programs(block(VALUES))
    first, again, other = (programs.measure(["trainability", "snip"], IMAGES, LABELS, seed) for seed in (1, 1, 2))
    assert first["trainability"].value == again["trainability"].value != other["trainability"].value
    assert first["snip"].value == other["snip"].value


def test_measures_that_share_a_pass_do_it_once(monkeypatch):
    programs, done = Programs(block(VALUES)), []
    found = Programs._program

    def program(self, build):
        done.append(build)
        return found(self, build)

    monkeypatch.setattr(Programs, "_program", program)
    names = ["expressivity", "naswot", "l_swag", "zico", "snip"]
    alone = programs.measure(names, IMAGES, LABELS)
    assert done == [passes._traced, passes._gradients_of]
    done.clear()
    together = programs.measure(["trainability", *names], IMAGES, LABELS)
    assert done == [passes._products, passes._gradients_of]  # The first has the block outputs, too.
    assert all(together[name].value == alone[name].value for name in names)
