"""What is written down of a training, given back, trains the same."""

import pytest
import yaml
from helpers import planned

from asvit_tf.tasks import plans, written_recipes


def test_the_recipe_written_down_trains_the_same(tmp_path):
    params = planned(1300)
    path = tmp_path / "recipe.yaml"
    path.write_text(written_recipes.recipe_text(params))
    assert planned(1300, recipe=str(path)).as_dict() == params.as_dict()
    assert len(path.read_text().splitlines()) < 40
    assert "topology" not in path.read_text()
    assert "tfrecord" not in path.read_text()
    edited = yaml.safe_load(path.read_text())
    edited["task"]["losses"]["label_smoothing"] = 0.03
    edited["trainer"]["optimizer_config"]["learning_rate"]["cosine"]["initial_learning_rate"] = 0.0007
    path.write_text(yaml.safe_dump(edited))
    again = planned(650, recipe=str(path))
    assert again.task.losses.label_smoothing == 0.03
    assert again.trainer.optimizer_config.learning_rate.cosine.initial_learning_rate == 0.0007
    assert plans.epochs_of(again) == 80
    assert again.trainer.steps_per_loop == 650 // 32


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ("learning_rate.type=constant", "constant"),
        ("learning_rate.type=polynomial", "polynomial"),
        ("warmup.type=polynomial", "cosine"),
        ("warmup.type=null", "cosine"),
    ],
)
def test_other_learning_rates_last_as_long_and_are_written_down(fields, kind, tmp_path):
    fields = tuple(f"trainer.optimizer_config.{field}" for field in fields.split(","))
    params = planned(1300, epochs=10, overrides=fields)
    longer = plans.with_epochs(params, 20)
    for each, epochs in ((params, 10), (longer, 20)):
        rate = each.trainer.optimizer_config.learning_rate
        assert rate.type == kind
        if kind != "constant":
            assert rate.get().decay_steps == each.trainer.train_steps == epochs * 40
    warmup = params.trainer.optimizer_config.warmup
    assert warmup.type is None or warmup.get().warmup_steps == 20
    path = tmp_path / "recipe.yaml"
    path.write_text(written_recipes.recipe_text(params))
    again = planned(1300, recipe=str(path)).trainer.optimizer_config
    assert again.as_dict() == params.trainer.optimizer_config.as_dict()
