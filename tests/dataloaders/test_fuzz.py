"""A few cases of `fuzzing` on every change; `benchmarks/data/fuzz.py` runs thousands."""

import fuzzing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

FEW = dict(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))


def test_annotation_files(tmp_path):
    root = fuzzing.annotated(tmp_path / "data")
    seen = set()

    @settings(max_examples=40, **FEW)
    @given(fuzzing.mutations(), st.booleans(), st.booleans())
    def run(case, include_masks, lenient):
        seen.add(fuzzing.annotations_case(root, case, include_masks, lenient))

    run()
    assert seen == {"read", "refused"}
    assert fuzzing.annotations_case(root, [], True, False) == "read"


def test_image_files(tmp_path):
    seen = set()

    @settings(max_examples=40, **FEW)
    @given(fuzzing.image_files(), st.sampled_from(["x.png", "x.JPG", "x"]))
    def run(content, name):
        seen.add(fuzzing.images_case(tmp_path, content, name))

    run()
    assert seen == {"read", "counted"}


def test_paths(tmp_path):
    seen = set()

    @settings(max_examples=25, **FEW)
    @given(fuzzing.NAMES, st.sampled_from([1, 2]))
    def run(name, shards):
        seen.add(fuzzing.paths_case(tmp_path / "paths", name, shards))

    run()
    assert "read" in seen
    assert fuzzing.paths_case(tmp_path / "paths", "\udce9", 1) == "refused"
    for name in ("cats, dogs [1]", 'Bob\'s "*?"\n', "$HERE", "~"):
        assert fuzzing.paths_case(tmp_path / "paths", name, 2) == "read"


def test_experiments_and_topologies(tmp_path):
    seen = set()

    @settings(max_examples=30, **FEW)
    @given(fuzzing.experiments(), fuzzing.TOPOLOGIES)
    def run(text, topology):
        seen.add(fuzzing.yaml_case(tmp_path, text))
        fuzzing.topology_case(topology)

    run()
    assert "refused" in seen
    assert fuzzing.yaml_case(tmp_path, "task: {model: {num_classes: 3}}") == "read"
    assert fuzzing.topology_case("4,2,2|2,2,2|2,1,2|2,1,2|8,8") == "read"
