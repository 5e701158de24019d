"""The README runs as printed and stays short; links lead somewhere; the architecture page is that of the tree."""

import re
import tomllib

import tf_keras
from helpers import ROOT

from asvit_tf import Tokenization

README = (ROOT / "README.md").read_text()


def test_python_runs_as_printed():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    names: dict = {}
    tf_keras.utils.set_random_seed(0)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    for kind in ("model", "shifted"):
        history = names[kind].history.history["accuracy"]
        assert history[-1] > 0.3  # Ten classes: four standard errors of guessing over 640 images are 0.05.
    assert isinstance(names["shifted"], tf_keras.Sequential)
    assert names["shifted"].layers[-1] is names["model"]
    assert names["schedule"].boundaries == (40,)  # Of the 60 steps that `fit` takes; 16-pixel strides do not fit.
    assert int(names["model"].optimizer.iterations) == names["schedule"].boundaries[0] * 3 // 2
    assert names["model"].get_layer("backbone").tokenization == Tokenization(4, 1)


def test_links_lead_to_files_and_headings_that_exist():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if target.startswith("http"):
                continue
            path, _, anchor = target.partition("#")
            linked = (page.parent / path).resolve() if path else page
            assert linked.exists(), f"{page.name}: {target}"
            if anchor:
                assert anchor in headings(linked.read_text()), f"{page.name}: {target}"


def headings(text):
    """Anchors of a page's headings, as GitHub forms them."""
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_readme_is_short():
    assert len(README.splitlines()) <= 100


def test_architecture_shows_every_layer_of_the_import_rules_in_their_order():
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(rule["layers"] for rule in rules if rule["type"] == "layers")
    figure = (ROOT / "docs" / "architecture.md").read_text().split("```")[1]
    end = -1
    for layer in layers:
        found = [re.search(rf"\b{name.rpartition('.')[2]}(/|\.py)(?=\s)", figure) for name in layer.split(" | ")]
        assert all(found), layer
        places = [match.start() for match in found if match]
        assert min(places) > end, layer
        end = max(places)
    for package in ("asvit_tf", "search"):
        rooms = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert rooms <= set(re.findall(rf"{package}/(\w+)/", figure))
