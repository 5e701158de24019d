"""Loops and conditionals in programs that the TPU's compiler compiled: counted as often as they run."""

import re

import pytest
import tensorflow as tf
from official.vision.ops import nms

from asvit_tf.modeling import attention
from asvit_tf.tpu import compiler as tpu_compiler
from asvit_tf.tpu import schedule as tpu_schedule

SIDE = 1024  # A product of this side takes 30,000 cycles, so that what surrounds a loop is little.


@pytest.fixture
def compiled(monkeypatch):
    """Compiles a function for a v5e: what is said of it, and the compiler's text."""
    pytest.importorskip("libtpu")
    texts = []
    read = tpu_schedule.read
    monkeypatch.setattr(tpu_schedule, "read", lambda text: texts.append(text) or read(text))

    def compile_function(function, *arguments):
        lowered = tf.function(function, jit_compile=True, autograph=False).experimental_get_compiler_ir(*arguments)
        program = tpu_compiler._compile(tpu_compiler.cleaned(lowered(stage="stablehlo")), "v5e:2x2")
        assert program.compiles, program.message
        return program, texts[-1]

    return compile_function


def matrix(*batch, side=SIDE):
    return tf.zeros((*batch, side, side), tf.bfloat16)


def product(x, weights):
    return tf.matmul(tf.nn.relu(x), weights)


def repeated(times, start=0, step=1, goes_on=None, **options):
    """A loop of products: `while goes_on(i, x): x = product(x)`, i from `start` by `step`."""
    goes_on = goes_on or (lambda i, x: i < times)

    def function(x, weights):
        return tf.while_loop(goes_on, lambda i, x: (i + step, product(x, weights)), (start, x), **options)[1]

    return function


def annotated(text, times):
    """The text with the trip count beside its only loop, as the compiler writes it where it does."""
    text = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
    loop = re.search(r"^.* while\(.*$", text, flags=re.MULTILINE)[0]
    return text.replace(loop, f'{loop}, backend_config={{"known_trip_count":{{"n":"{times}"}}}}')


def times_of_products(text):
    """How often each instruction with a product in it runs."""
    return sorted(row.times for row in tpu_schedule.read(text).instructions if row.product_flops)


def test_a_loop_of_ten_products_costs_ten_times_one(compiled):
    """Within 10 %: the loop copies what it carries, and what surrounds it comes on top."""
    one, _ = compiled(product, matrix(), matrix())
    ten, text = compiled(repeated(10), matrix(), matrix())
    assert (ten.bounded_loops, ten.unknown_loops) == (0, 0)
    assert ten.cycles == pytest.approx(10 * one.cycles, rel=0.1)
    assert ten.flops == pytest.approx(10 * one.flops, rel=0.01)
    # The same with the trip count in the text and without: counted from the loop's condition.
    bare = re.sub(r'"known_trip_count":\{[^}]*\},?', "", text)
    assert tpu_schedule.read(bare).cycles == tpu_schedule.read(annotated(text, 10)).cycles == ten.cycles
    assert tpu_schedule.read(annotated(text, 20)).cycles == pytest.approx(20 * one.cycles, rel=0.1)
    (slowest, *_) = ten.profile
    assert (slowest.kind, slowest.count) == (f"fusion bf16[{SIDE},{SIDE}]", 10)


@pytest.mark.parametrize(
    ("start", "step", "goes_on", "options"),
    [
        (2, 3, lambda i, x: i <= 20, {}),
        (7, -1, lambda i, x: i > 0, {}),
        (0, 2, lambda i, x: i != 8, {}),
        (0, 1, lambda i, x: i < 1000, {"maximum_iterations": 7}),
        (1, 1, lambda i, x: tf.logical_and(i * i < 50, tf.logical_not(i > 6)), {}),
    ],
)
def test_trip_count_follows_from_the_condition(compiled, start, step, goes_on, options):
    expected, i = 0, start
    while goes_on(i, None) and expected < options.get("maximum_iterations", 1000):
        expected, i = expected + 1, i + step
    function = repeated(None, start, step, goes_on, **options)
    program, text = compiled(function, matrix(side=256), matrix(side=256))
    assert times_of_products(text) == [expected]
    assert (program.bounded_loops, program.unknown_loops) == (0, 0)


def test_loops_inside_loops_multiply(compiled):
    def function(rows, weights):
        return tf.map_fn(lambda row: repeated(4)(row, weights), rows)

    program, text = compiled(function, matrix(6, side=256), matrix(side=256))
    assert times_of_products(text) == [24]
    assert program.flops == pytest.approx(24 * 2 * 256**3, rel=0.02)


def test_a_loop_over_rows_moves_each_row_once(compiled):
    """Each iteration reads a row, all weights and writes a row; the tensors that hold all rows are not moved."""
    for rows in (5, 10):
        program, _ = compiled(
            lambda x, weights: tf.map_fn(lambda row: product(row, weights), x), matrix(rows), matrix()
        )
        assert program.hbm_bytes_moved == pytest.approx(rows * 3 * SIDE**2 * 2, rel=0.05)
    scanned, text = compiled(
        lambda x, weights: tf.scan(lambda last, row: product(last + row, weights), x), matrix(10), matrix()
    )
    assert times_of_products(text) == [9]  # The first row is what it starts from.
    assert scanned.hbm_bytes_moved < 100 * SIDE**2 * 2


def test_a_loop_that_ends_by_data_is_reported(compiled):
    def by_data(_, x):
        return tf.reduce_sum(x) > 1

    one, _ = compiled(product, matrix(), matrix())
    unknown, text = compiled(repeated(None, goes_on=by_data), matrix(), matrix())
    assert (unknown.bounded_loops, unknown.unknown_loops) == (0, 1)
    assert times_of_products(text) == [1]
    assert unknown.cycles > one.cycles
    # A bound that is an argument of the program is not known either.
    to_argument = repeated(None, goes_on=lambda i, x: i < tf.cast(x[0, 0], tf.int32))
    assert compiled(to_argument, matrix(), matrix())[0].unknown_loops == 1

    bounded, text = compiled(
        repeated(None, goes_on=lambda i, x: tf.logical_and(i < 9, by_data(i, x))), matrix(), matrix()
    )
    assert (bounded.bounded_loops, bounded.unknown_loops) == (1, 0)
    assert times_of_products(text) == [9]


def test_loops_of_suppression_are_reported(compiled):
    """Tiles of boxes, until enough are found; in each a loop over those before, and one until nothing changes."""
    scores = tf.sort(tf.random.uniform((2, 1500)), direction="DESCENDING")
    program, _ = compiled(
        lambda scores, boxes: nms.sorted_non_max_suppression_padded(scores, boxes, 100, 0.5),
        *(scores, tf.random.uniform((2, 1500, 4))),
    )
    assert (program.bounded_loops, program.unknown_loops) == (1, 2)


def test_the_dearest_branch_counts(compiled):
    branches = [lambda x, w: x + 1, lambda x, w: product(product(x, w), w), product]

    def switch(*order):
        def function(x, weights, index):
            return tf.switch_case(index, [lambda number=number: branches[number](x, weights) for number in order])

        return compiled(function, matrix(), matrix(), tf.constant(1))[0].cycles

    dearest = compiled(branches[1], matrix(), matrix())[0].cycles
    for order in ((0, 1, 2), (1, 2, 0)):
        assert switch(*order) == pytest.approx(dearest, rel=0.15)
    by_truth, _ = compiled(
        lambda x, weights: tf.cond(tf.reduce_sum(x) > 1, lambda: x + 1, lambda: product(product(x, weights), weights)),
        *(matrix(), matrix()),
    )
    assert by_truth.cycles > dearest


def test_attention_in_chunks_costs_about_what_it_costs_whole(compiled):
    """Seven products with scores instead of six, as what was mixed is kept, and no scores moved."""

    def with_gradients(attend):
        def function(query, key, value, d_mixed):
            with tf.GradientTape() as tape:
                tape.watch((query, key, value))
                mixed = attend(query, key, value)
            return mixed, *tape.gradient(mixed, (query, key, value), d_mixed)

        return function

    tensors = [tf.zeros((8, 16, 784, 22), tf.bfloat16)] * 4
    whole, _ = compiled(with_gradients(attention.attend), *tensors)
    chunked, text = compiled(with_gradients(attention.attend_in_chunks), *tensors)
    assert set(times_of_products(text)) == {8}
    assert chunked.flops == pytest.approx(7 / 6 * whole.flops, rel=0.06)
    assert whole.cycles / 2 < chunked.cycles < 2 * whole.cycles
    # Queries, keys and values twice, the result, its gradient and three more, in tiles; scores are 36 times as many.
    assert chunked.hbm_bytes_moved < 2 * 11 * tensors[0].shape.num_elements() * 2 < whole.hbm_bytes_moved
