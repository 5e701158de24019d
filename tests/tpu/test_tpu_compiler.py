"""What the TPU compiler is asked, and what of its answers is kept."""

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json

import pytest

from asvit_tf import private_names
from asvit_tf.errors import UserError
from asvit_tf.tpu import compiler as tpu_compiler
from asvit_tf.tpu import schedule as tpu_schedule
from asvit_tf.tpu.compiler import Program


@pytest.fixture
def compiled(monkeypatch):
    """Programs that were compiled, not read from the cache: text and TPU of each."""
    programs = []

    def compile_anew(text, topology_name):
        programs.append((text.strip(), topology_name))
        return Program(True, flops=float(len(programs)), profile=(tpu_schedule.Kind("copy f32[8]", 1, 2, 3),))

    monkeypatch.setattr(tpu_compiler, "_compile", compile_anew)
    monkeypatch.setattr(tpu_compiler, "version", lambda: "1.0")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"jaxlib": "0.10.2"}[name])
    for name in ("LIBTPU_INIT_ARGS", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    return programs


def test_a_result_is_kept_for_its_program_chip_compiler_settings_and_reading(compiled, tmp_path, monkeypatch):
    def flops(text="a", topology_name="v5e:2x2"):
        return tpu_compiler.compile_program(text, topology_name, tmp_path).flops

    # A program is one for a single chip, however many there are.
    assert [flops(), flops(), flops("b"), flops("a", "v5e:4x4"), flops("a", "v4:2x2"), flops()] == [1, 1, 2, 1, 3, 1]
    assert compiled == [("a", "v5e:2x2"), ("b", "v5e:2x2"), ("a", "v4:2x2")]
    kept = tpu_compiler.compile_program("a", "v5e:2x2", tmp_path)
    assert kept.profile == (tpu_schedule.Kind("copy f32[8]", 1, 2, 3),)
    monkeypatch.setattr(tpu_compiler, "_READING", tpu_compiler._READING + 1)
    assert flops() == 4
    monkeypatch.setattr(tpu_compiler, "version", lambda: "1.1")
    assert flops() == 5
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_scoped_vmem_limit_kib=1024")
    assert [flops(), flops()] == [6, 6]
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    assert [flops(), flops()] == [7, 7]
    monkeypatch.setattr(importlib.metadata, "version", lambda name: {"jaxlib": "0.11.0"}[name])
    assert [flops(), flops()] == [8, 8]


def test_results_of_before_are_found(compiled, tmp_path):
    """Of one chip kind, compiler and program, as keys were when they had no more in them."""
    key = hashlib.sha256(f"1.0 v5e:2x2 {tpu_compiler._READING}\na".encode()).hexdigest()
    kept = dataclasses.asdict(Program(True, flops=17.0))
    (tmp_path / f"{key}.json").write_text(json.dumps(kept))
    assert tpu_compiler.compile_program("a", "v5e:2x2", tmp_path).flops == 17
    # A failure of that time may have been one of the moment.
    kept |= dict(compiles=False, message="INTERNAL: no such file")
    (tmp_path / f"{key}.json").write_text(json.dumps(kept))
    assert tpu_compiler.compile_program("a", "v5e:2x2", tmp_path).compiles
    assert len(compiled) == 1


@pytest.mark.parametrize(
    ("message", "lasts"),
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory", True),
        ("UNIMPLEMENTED: sort of complex numbers", True),
        ("INTERNAL: cannot open a file", False),
        ("no program", False),
    ],
)
def test_a_failure_is_kept_only_if_the_program_is_at_fault(message, lasts, compiled, tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(tpu_compiler, "_compile", lambda *_: times.append(1) or Program(False, message))
    for _ in range(2):
        assert tpu_compiler.compile_program("a", "v5e:2x2", tmp_path).message == message
    assert len(times) == (1 if lasts else 2)


def test_a_v4_is_one_chip_of_two_cores(monkeypatch):
    pytest.importorskip("libtpu")
    used = []

    def fail(device, text):
        used.append(device)
        raise private_names.MalformedProgramError("no program")

    monkeypatch.setattr(private_names, "compile_stablehlo", fail)
    tpu_compiler._compile("", "v4:2x2")
    assert used[0].num_cores == 2
    monkeypatch.setattr(tpu_compiler, "_ARRANGEMENTS", {})
    with pytest.raises(UserError, match="has 8 devices for the 4 chips of v4:2x2; it must have one for each"):
        tpu_compiler._compile("", "v4:2x2")


def test_another_text_of_this_package_throws_no_result_away(compiled, tmp_path, monkeypatch):
    first = tpu_compiler.compile_program("a", "v5e:2x2", tmp_path)
    monkeypatch.setattr(inspect, "getsource", lambda _: "reformatted")
    monkeypatch.setattr(inspect, "getsourcelines", lambda _: (["reformatted"], 0))
    for module in (tpu_compiler, tpu_schedule):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "moved.py"))
        monkeypatch.setattr(module, "__doc__", "reworded")
    assert tpu_compiler.compile_program("a", "v5e:2x2", tmp_path) == first
    assert len(compiled) == 1


def test_a_changed_result_has_another_reading():
    """Where this fails, raise `_READING` and write down the new fields: results kept before lack them."""
    fields = {
        1: (
            "compiles message argument_bytes output_bytes aliased_bytes temporary_bytes code_bytes flops "
            "bytes_accessed hbm_bytes_moved cycles profile compile_seconds",
            "kind count cycles hbm_bytes",
        ),
        2: (
            "compiles message argument_bytes output_bytes aliased_bytes temporary_bytes code_bytes flops "
            "bytes_accessed hbm_bytes_moved cycles bounded_loops unknown_loops profile compile_seconds",
            "kind count cycles hbm_bytes",
        ),
    }[tpu_compiler._READING]
    parts = (Program, tpu_schedule.Kind)
    assert tuple(" ".join(field.name for field in dataclasses.fields(part)) for part in parts) == fields
