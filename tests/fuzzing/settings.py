"""Values of an experiment's YAML, and topologies."""

from __future__ import annotations

from pathlib import Path

import yaml
from hypothesis import strategies as st
from official.core import train_utils

from asvit_tf.dataloaders import experiment_yaml
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.tasks import checks
from asvit_tf.training import run as training
from fuzzing.lines import check_line

_VALUES = st.one_of(
    st.sampled_from([0, -1, 1, 3, 10**20, 0.5, -0.5, 1e400, float("nan"), True, None, "", "x", "1e3", "~", [], {}]),
    st.lists(st.sampled_from([0, 1, 3, 32, "x", None, 0.5, []]), max_size=4),
    st.dictionaries(
        st.sampled_from(["type", "a", "preset", "cosine", 1]), st.sampled_from([0, "x", None, {}]), max_size=2
    ),
    st.text(max_size=8),
)
TOPOLOGIES = st.one_of(
    st.text("0123456789,| -.xA\uff18", max_size=30),
    st.builds(
        lambda numbers, gap: gap.join(",".join(map(str, part)) for part in numbers),
        st.lists(st.lists(st.integers(-1, 70), min_size=1, max_size=4), min_size=3, max_size=6),
        st.sampled_from(["|", " | ", "||"]),
    ),
)


def _leaves(value, path=()):
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, key))
    yield path


@st.composite
def experiments(draw) -> str:
    """YAML of one to three fields of an experiment with other values; or a text that is hardly YAML."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.text(":{}[]-#&*!|>%@`'\" \n\tab1", max_size=40))
    fields = sorted(set(_leaves(_registered())) - {()}, key=str)
    content: dict = {}
    for path in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        inner = content
        for key in path[:-1]:
            if not isinstance(inner.get(key), dict):
                inner[key] = {}
            inner = inner[key]
        is_topology = path[-1] == "topology"
        inner[path[-1]] = draw(TOPOLOGIES if is_topology else _VALUES)
    return yaml.safe_dump(content, allow_unicode=draw(st.booleans()))


RECIPE = str(Path(__file__).parents[2] / "official_configs/digits_asvit_i32_cpu.yaml")
_CACHED: list = []


def _registered() -> dict:
    if not _CACHED:
        params = training.configure(train_utils.ParseConfigOptions("asvit_digits", []))
        _CACHED.append(params.as_dict())
    return _CACHED[0]


def yaml_case(root: Path, text: str) -> str:
    """Configures an experiment by this YAML and checks it, as far as asvit train does before it opens data."""
    path = root / "experiment.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        params = training.configure(train_utils.ParseConfigOptions("asvit_digits", [RECIPE, str(path)]))
        checks.check(params)
        training.plan_of(params)
    except UserError as error:
        check_line(error)
        return "refused"
    assert yaml.safe_load(experiment_yaml.text(params.as_dict(), "c"))
    return "read"


def topology_case(text: str) -> str:
    """Parses a topology; what is one comes back from its text."""
    try:
        topology = Topology.parse(text)
    except UserError as error:
        check_line(error)
        return "refused"
    assert Topology.parse(str(topology)) == topology
    return "read"
