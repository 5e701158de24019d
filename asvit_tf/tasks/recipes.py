"""What the experiments share: optimizer, learning rate, clipping, numbers of steps."""

from __future__ import annotations

from official.core import config_definitions as cfg
from official.modeling import optimization


def experiment(task: cfg.TaskConfig) -> cfg.ExperimentConfig:
    """An experiment with AdamW, a cosine learning rate and a linear warm-up; its YAML gives the numbers.

    Gradients are clipped at a global norm of 1. Without that, trainings at few tokens were seen to lose all they had
    learned near the peak of the learning rate (docs/benchmarks.md, "Stability").
    """
    return cfg.ExperimentConfig(
        task=task,
        trainer=cfg.TrainerConfig(
            optimizer_config=optimization.OptimizationConfig(
                {
                    "optimizer": {
                        "type": "adamw",
                        # Norms, biases and position embedding are not decayed.
                        "adamw": {
                            "weight_decay_rate": 0.05,
                            # The sum over all replicas is clipped. `gradient_clip_norm`, AdamW's own, clips what each
                            # of n replicas adds to it, an n-th of a gradient: on many chips it would hardly ever act.
                            "global_clipnorm": 1.0,
                            "gradient_clip_norm": 0.0,
                            "exclude_from_weight_decay": ["gamma", "beta", "bias", "embedding"],
                        },
                    },
                    "learning_rate": {"type": "cosine", "cosine": {"initial_learning_rate": 1e-3}},
                    "warmup": {"type": "linear", "linear": {"warmup_learning_rate": 0}},
                }
            )
        ),
        restrictions=["task.train_data.is_training != None", "task.validation_data.is_training != None"],
    )


def train_for(params: cfg.ExperimentConfig, epochs: int, epoch_steps: int, warmup_steps: int) -> None:
    """Sets every number of steps: a cosine over all epochs; after each, an evaluation of all data and a checkpoint."""
    params.trainer.override(
        {
            "train_steps": epochs * epoch_steps,
            "validation_steps": -1,
            "validation_interval": epoch_steps,
            "steps_per_loop": epoch_steps,
            "summary_interval": epoch_steps,
            "checkpoint_interval": epoch_steps,
            "optimizer_config": {
                "learning_rate": {"cosine": {"decay_steps": epochs * epoch_steps}},
                "warmup": {"linear": {"warmup_steps": warmup_steps}},
            },
        }
    )


def warmup_steps(params: cfg.ExperimentConfig) -> int:
    """Steps of the learning rate's warm-up; of one without, a hundredth of all, at least 1."""
    steps = getattr(params.trainer.optimizer_config.warmup.get(), "warmup_steps", None)
    return steps or max(1, params.trainer.train_steps // 100)
