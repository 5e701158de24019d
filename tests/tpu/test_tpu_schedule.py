"""Cycles and traffic of programs written by hand, in the compiler's language."""

from asvit_tf.tpu import hlo, traffic
from asvit_tf.tpu import schedule as tpu_schedule

SCHEDULE = """HloModule jit_step, is_scheduled=true

%fused (p: f32[64,14]) -> f32[64,14] {
  %p = f32[64,14]{1,0:T(8,128)} parameter(0)
  ROOT %square = f32[64,14]{1,0:T(8,128)} multiply(%p, %p)
}

%body.1 (s: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %s = (s32[]{:T(128)S(6)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%s), index=0
  %item = f32[8,128]{1,0:T(8,128)} get-tuple-element(%s), index=1
  %next = s32[]{:T(128)S(6)} add(%i, %one)
  %copy.7 = f32[8,128]{1,0:T(8,128)} copy(%item), backend_config={"estimated_cycles":"10"}
  ROOT %t = (s32[]{:T(128)S(6)}, f32[8,128]{1,0:T(8,128)}) tuple(%next, %copy.7)
}

%condition.1 (s: (s32[], f32[8,128])) -> pred[] {
  %s = (s32[]{:T(128)S(6)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %three = s32[]{:T(128)S(6)} constant(3)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%s), index=0
  ROOT %less = pred[]{:T(512)S(6)} compare(%i, %three), direction=LT, backend_config={"estimated_cycles":"2"}
}

ENTRY %main.9 (a: f32[64,14], b: f32[4,8,128]) -> f32[64,14] {
  %a = f32[64,14]{1,0:T(8,128)} parameter(0)
  %b = f32[4,8,128]{2,1,0:T(8,128)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  %slice-start.1 = ((f32[4,8,128]{2,1,0:T(8,128)}), f32[1,8,128]{2,1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%b)
  %slice-done.1 = f32[1,8,128]{2,1,0:T(8,128)S(1)} slice-done(%slice-start.1)
  %copy-start = (f32[64,14]{1,0:T(8,128)S(1)}, f32[64,14]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done = f32[64,14]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %fusion.3 = f32[64,14]{1,0:T(8,128)S(1)} fusion(%copy-done), calls=%fused, backend_config={"estimated_cycles":"100"}
  %tuple = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, /*index=1*/%slice-done.1)
  %while.2 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%tuple), condition=%condition.1, body=%body.1
  ROOT %fusion.12 = f32[64,14]{1,0:T(8,128)} fusion(%fusion.3), calls=%fused, backend_config={"estimated_cycles":"50"}
}
"""
SLICE, WHOLE = 8 * 128 * 4, 64 * 128 * 4


def rows_of(schedule):
    return [(row.kind, row.times, row.cycles, row.hbm_bytes) for row in schedule.instructions]


def test_traffic_of_a_schedule_by_hand():
    """Only what crosses the border of HBM counts: padded to its tiles, a slice and not the whole, loops repeatedly."""
    schedule = tpu_schedule.read(SCHEDULE)
    assert rows_of(schedule) == [
        ("slice-start f32[4,8,128]", 1, 0, SLICE),
        ("copy-start f32[64,14]", 1, 0, WHOLE),
        ("fusion f32[64,14]", 1, 100, 0),
        ("less pred[]", 4, 2, 0),
        ("next s32[]", 3, 0, 4),  # The constant, as if it came from memory.
        ("copy f32[8,128]", 3, 10, 2 * SLICE),
        ("fusion f32[64,14]", 1, 50, WHOLE),
    ]
    assert schedule.cycles == 150 + 4 * 2 + 3 * 10
    assert schedule.hbm_bytes == 2 * WHOLE + 7 * SLICE + 3 * 4
    fusion, copy, *_ = tpu_schedule.by_kind(schedule.instructions)
    assert (fusion.kind, fusion.count, fusion.cycles, fusion.hbm_bytes) == ("fusion f32[64,14]", 2, 150, WHOLE)
    assert (copy.count, copy.cycles, copy.hbm_bytes) == (3, 30, 6 * SLICE)


def test_a_trip_count_in_the_text_is_taken():
    text = SCHEDULE.replace("body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"5"}}')
    assert tpu_schedule.read(text).cycles == 150 + 6 * 2 + 5 * 10


def test_a_counter_that_data_move_is_unknown():
    """A step, a start or a bound that is no constant; the body then counts once, its condition twice."""
    for constant in ("%one = s32[]{:T(128)} constant(1)", "%zero = s32[]{:T(128)} constant(0)"):
        name = constant.split()[0]
        text = SCHEDULE.replace(constant, f"{name} = s32[]{{:T(128)}} convert(%measured)")
        schedule = tpu_schedule.read(text)
        assert (schedule.unknown_loops, schedule.bounded_loops) == (1, 0)
        assert schedule.cycles == 150 + 2 * 2 + 10
    # One that never ends.
    schedule = tpu_schedule.read(SCHEDULE.replace("constant(1)", "constant(0)"))
    assert (schedule.unknown_loops, schedule.bounded_loops) == (1, 0)
    # 32 bits do not hold twice two thousand million: the chip goes on where whole numbers would end the loop.
    product = "%two = s32[]{:T(128)} constant(2000000000)\n  %product = s32[]{:T(128)} multiply(%i, %two)\n  ROOT %less"
    text = SCHEDULE.replace("ROOT %less", product).replace("compare(%i,", "compare(%product,")
    schedule = tpu_schedule.read(text.replace("constant(3)", "constant(2147483640)"))
    assert (schedule.unknown_loops, schedule.bounded_loops) == (1, 0)


BRANCHES = """HloModule jit_step, is_scheduled=true

%cheap (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  ROOT %copy.1 = f32[8,128]{1,0:T(8,128)} copy(%p), backend_config={"estimated_cycles":"10"}
}

%dear (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy.2 = f32[8,128]{1,0:T(8,128)} copy(%p), backend_config={"estimated_cycles":"30"}
  ROOT %copy.3 = f32[8,128]{1,0:T(8,128)} copy(%copy.2), backend_config={"estimated_cycles":"30"}
}

ENTRY %main (a: f32[8,128], c: s32[]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %c = s32[]{:T(128)} parameter(1)
  ROOT %conditional.1 = f32[8,128]{1,0:T(8,128)} conditional(%c, %a, %a), BRANCHES
}
"""


def test_the_dearest_branch_by_hand():
    for branches in (
        "branch_computations={%cheap, %dear, %cheap}",
        "true_computation=%dear, false_computation=%cheap",
        "true_computation=%cheap, false_computation=%dear",
    ):
        schedule = tpu_schedule.read(BRANCHES.replace("BRANCHES", branches))
        assert rows_of(schedule) == [("copy f32[8,128]", 1, 30, 2 * SLICE)] * 2


ROWS = """HloModule jit_step, is_scheduled=true

%inner (q: f32[6,8,128], j: s32[]) -> f32[8,128] {
  %q = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %j = s32[]{:T(128)} parameter(1)
  %row = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%q, %j, %j, %j), dynamic_slice_sizes={1,8,128}
  ROOT %view.1 = f32[8,128]{1,0:T(8,128)} bitcast(%row)
}

%fused (p: f32[6,8,128], o: f32[6,8,128], i: s32[]) -> f32[6,8,128] {
  %p = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %o = f32[6,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[]{:T(128)} parameter(2)
  %same = f32[6,8,128]{2,1,0:T(8,128)} bitcast(%p)
  %taken = f32[8,128]{1,0:T(8,128)} fusion(%same, %i), kind=kLoop, calls=%inner
  %view.2 = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%taken)
  ROOT %put = f32[6,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%o, %view.2, %i, %i, %i)
}

ENTRY %main (a: f32[6,8,128], b: f32[6,8,128], c: s32[]) -> f32[6,8,128] {
  %a = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %b = f32[6,8,128]{2,1,0:T(8,128)} parameter(1)
  %c = s32[]{:T(128)S(6)} parameter(2)
  ROOT %fusion.1 = f32[6,8,128]{2,1,0:T(8,128)} fusion(%a, %b, %c), kind=kLoop, calls=%fused
}
"""


def moved(text):
    (row,) = tpu_schedule.read(text).instructions
    return row.hbm_bytes


def test_a_row_is_moved_and_not_all_rows():
    whole = 6 * SLICE
    assert moved(ROWS) == 2 * SLICE
    fast = "f32[6,8,128]{2,1,0:T(8,128)S(1)} parameter(0)\n  %b"
    assert moved(ROWS.replace("f32[6,8,128]{2,1,0:T(8,128)} parameter(0)\n  %b", fast)) == SLICE
    # All rows of what is read, where something else reads them, too.
    both = ROWS.replace("ROOT %put", "%all = f32[6,8,128]{2,1,0:T(8,128)} negate(%p)\n  ROOT %put")
    assert moved(both) == whole + SLICE
    # And of what is written, where that is not what comes out.
    put = "dynamic-update-slice(%o, %view.2, %i, %i, %i)"
    after = ROWS.replace("ROOT %put", "%put").replace(
        put, f"{put}\n  ROOT %out = f32[6,8,128]{{2,1,0:T(8,128)}} negate(%put)"
    )
    assert moved(after) == SLICE + 2 * whole


def test_rows_outside_of_fusions():
    entry = ROWS[: ROWS.index("  ROOT %fusion.1")]
    sliced = "  ROOT %row.1 = f32[1,8,128]{2,1,0:T(8,128)S(1)} dynamic-slice(%a, %c, %c, %c)\n}\n"
    assert moved(entry + sliced) == SLICE
    update = "  ROOT %put.1 = f32[6,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%a, %row, %c, %c, %c)\n}\n"
    row = "  %row = f32[1,8,128]{2,1,0:T(8,128)} parameter(3)\n"
    assert moved(entry + row + update) == 2 * SLICE
    place = '  ROOT %rows = f32[6,8,128]{2,1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"\n}\n'
    assert moved(entry + place) == 0


def product_flops(left, right, output, labels, window=""):
    text = f"""HloModule m

ENTRY %main (a: bf16[], b: bf16[]) -> bf16[] {{
  %a = bf16[{left}]{{0}} parameter(0)
  %b = bf16[{right}]{{0}} parameter(1)
  ROOT %convolution.1 = bf16[{output}]{{0}} convolution(%a, %b), {window}dim_labels={labels}
}}
"""
    module = hlo.Module.parse(text)
    computation = module[module.entry]
    return traffic.product_flops(module, computation, computation.root)


def test_operations_of_products():
    assert product_flops("30,20", "20,50", "30,50", "bf_io->bf") == 2 * 30 * 20 * 50
    # A batch of 16 products, as the compiler writes one: each output meets its own element of a dilated window.
    batch = "window={size=16 stride=15 lhs_dilate=16}, "
    assert product_flops("16,30,20", "16,50,20", "16,30,50", "0bf_0oi->0bf", batch) == 16 * 2 * 30 * 20 * 50
    # A window of 3 x 3 over 5 x 4 pixels, with a border of zeros that is not multiplied.
    pixels = (3 * 5 - 2) * (3 * 4 - 2)
    padded = "window={size=3x3 pad=1_1x1_1}, "
    assert product_flops("2,5,4,7", "3,3,7,6", "2,5,4,6", "b01f_01io->b01f", padded) == 2 * 2 * 7 * 6 * pixels
    strided = "window={size=2x2 stride=2x2}, "
    assert product_flops("2,6,4,7", "2,2,7,6", "2,3,2,6", "b01f_01io->b01f", strided) == 2 * 2 * 7 * 6 * 6 * 4
