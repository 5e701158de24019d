"""REINFORCE over the search space: finds a seed topology by training-free scores.

Each choice of the space has its own categorical distribution. A step samples a topology, scores it, and moves the
distributions towards it if its reward is above the moving average. The reward looks at each measure's change since the
step before, in units of the measure's recent range. Source: the released search code, whose numbers these are; where a
measure failed, it kept -1 as a score, and we skip the update instead.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from asvit_tf import counting
from asvit_tf.errors import UserError
from asvit_tf.topology import Topology
from search import space
from search.records import Journal, write_json
from search.scoring import DIRECTIONS, Score, Scorer

_RANGE_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Options:
    """Of the search itself.

    Attributes:
      total_steps: Topologies to sample.
      learning_rate: Adam's.
      ema_momentum: Of the moving-average baseline.
      buffer_size: Recent values whose range scales a measure's reward.
      reward_types: Measures in the reward.
      seed: Of the policy and its samples.
    """

    total_steps: int = 500
    learning_rate: float = 0.08
    ema_momentum: float = 0.9
    buffer_size: int = 20
    reward_types: tuple[str, ...] = tuple(DIRECTIONS)
    seed: int = 8


class Policy:
    """Independent categorical distributions, one for each choice of the space."""

    def __init__(self, learning_rate: float, seed: int, choices: Mapping[str, Sequence[int]] = space.CHOICES):
        generator = np.random.default_rng(seed)
        self._logits = [
            tf.Variable(1e-3 * generator.standard_normal(len(options)), dtype=tf.float64)
            for options in choices.values()
        ]
        self._optimizer = tf_keras.optimizers.Adam(learning_rate, epsilon=1e-8)

    @property
    def probabilities(self) -> list[np.ndarray]:
        """Of every option, by choice."""
        return [tf.nn.softmax(logits).numpy() for logits in self._logits]

    @property
    def entropy(self) -> float:
        """Of the joint distribution, in nats."""
        return float(-sum(np.sum(p * np.log(np.maximum(p, 1e-300))) for p in self.probabilities))

    def sample(self, generator: np.random.Generator) -> tuple[int, ...]:
        """Draws an option for every choice."""
        return tuple(int(generator.choice(len(p), p=p)) for p in self.probabilities)

    def best(self) -> tuple[int, ...]:
        """The likeliest option of every choice."""
        return tuple(int(np.argmax(p)) for p in self.probabilities)

    def update(self, indices: Sequence[int], advantage: float) -> None:
        """One Adam step up the gradient of `advantage * log p(indices)`."""
        gradients = []
        for p, index in zip(self.probabilities, indices):
            chosen = np.eye(len(p))[index]
            gradients.append(tf.constant(-advantage * (chosen - p)))
        self._optimizer.apply_gradients(zip(gradients, self._logits))


class Reward:
    """Sum over measures of `direction * (b_t - b_(t-1)) / (max b - min b + 1e-6)`, b the last values of the measure."""

    def __init__(self, directions: Mapping[str, int], buffer_size: int):
        self._directions = directions
        self._recent: dict[str, deque[float]] = {name: deque(maxlen=buffer_size) for name in directions}

    def __call__(self, measures: Mapping[str, float | None]) -> float | None:
        """The reward of the next score: 0 for the first, None if one of its measures is missing."""
        values = {name: value for name, value in measures.items() if name in self._directions and value is not None}
        if len(values) < len(self._directions):
            return None
        reward = 0.0
        for name, direction in self._directions.items():
            recent = self._recent[name]
            recent.append(values[name])
            if len(recent) > 1:
                reward += direction * (recent[-1] - recent[-2]) / (max(recent) - min(recent) + _RANGE_EPSILON)
        return reward


class Baseline:
    """Exponential moving average of the rewards, the present one included, corrected for its start at 0."""

    def __init__(self, momentum: float):
        self._momentum = momentum
        self._average = 0.0
        self._weight = 0.0

    def __call__(self, reward: float) -> float:
        """Takes in a reward and returns the average."""
        self._average = self._momentum * self._average + (1 - self._momentum) * reward
        self._weight = self._momentum * self._weight + (1 - self._momentum)
        return self._average / self._weight


def search(
    directory: Path, options: Options, scorer: Scorer, image_size: tuple[int, int], progress: bool = False
) -> dict:
    """Runs the search, or continues it: steps that `directory/trace.jsonl` holds are replayed without measuring.

    Args:
      directory: Owned by this process (`records.workspace`).
      options: Of the search.
      scorer: Scores a topology.
      image_size: For counting multiply-accumulates.
      progress: Show a progress bar on standard error.

    Returns:
      What `result.json` holds: the topology that takes the likeliest option of every choice, and its counts.

    Raises:
      UserError: Not one topology could be scored.
    """
    journal = Journal(directory / "trace.jsonl")
    policy = Policy(options.learning_rate, options.seed)
    reward_of = Reward({name: DIRECTIONS[name] for name in options.reward_types}, options.buffer_size)
    baseline_of = Baseline(options.ema_momentum)
    failed = 0
    with tqdm.tqdm(total=options.total_steps, desc="search", unit="topology", disable=not progress) as bar:
        for step in range(options.total_steps):
            indices = policy.sample(np.random.default_rng([options.seed, step]))
            topology = space.topology_at(indices)
            if step < len(journal.rows):
                row = journal.rows[step]
                if row["topology"] != str(topology):
                    raise RuntimeError(f"step {step} of {directory} replays as {topology}, not {row['topology']}")
                measures, score = row["scores"], None
            else:
                score = scorer(topology)
                measures = score.measures
            reward = reward_of(measures)
            baseline = None
            if reward is None:
                failed += 1
            else:
                baseline = baseline_of(reward)
                policy.update(indices, reward - baseline)
            if score is not None:
                journal.append(_row(step, topology, score, reward, baseline, policy.entropy, image_size))
            bar.set_postfix_str(f"{topology}" + (f", {failed} failed" if failed else ""), refresh=False)
            bar.update()
    if failed == options.total_steps:
        raise UserError(
            f"none of {failed} topologies could be scored (see {directory / 'trace.jsonl'}); "
            "images that are all alike have no NTK condition number"
        )
    topology = space.topology_at(policy.best())
    result = dict(topology=str(topology), steps=options.total_steps, failed=failed, **_counts(topology, image_size))
    write_json(directory / "result.json", result)
    return result


def _counts(topology: Topology, image_size: tuple[int, int]) -> dict[str, int]:
    counted = counting.count(topology, image_size)
    return dict(parameters=counted.parameters, macs=counted.macs)


def _row(step, topology: Topology, score: Score, reward, baseline, entropy, image_size) -> dict:
    return dict(
        step=step,
        topology=str(topology),
        scores=score.measures,
        failures=score.failures,
        reward=reward,
        baseline=baseline,
        entropy=entropy,
        seconds=score.seconds,
        **_counts(topology, image_size),
    )
