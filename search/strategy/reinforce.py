"""REINFORCE over the search space: finds a seed topology by training-free scores.

Each choice of the space has its own categorical distribution. A step samples a topology, scores it, and moves the
distributions towards it if its reward is above the moving average. The reward looks at each measure's change since
the topology before, in units of the measure's recent range. Source: the released search code, whose numbers these are;
where a measure failed, it kept -1 as a score, and we skip the update instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
import tqdm

from asvit_tf.choices import DIRECTIONS
from asvit_tf.design.topology import Topology
from asvit_tf.errors import UserError
from asvit_tf.journals import Journal
from asvit_tf.storage import write_json
from search.scoring.score import Scorer
from search.strategy.limits import Limits
from search.strategy.scalars import Scalars
from search.strategy.settings import SearchSettings
from search.strategy.space import PUBLISHED, Space

_RANGE_EPSILON = 1e-6
_DRAWS = 1000  # Until one is within the limits.
_HOPELESS = 20  # The search ends when its first so many topologies cannot be scored.


class Policy:
    """Independent categorical distributions, one for each choice of the space."""

    def __init__(self, learning_rate: float, seed: int, choices: Mapping[str, Sequence[int]] = PUBLISHED.choices):
        generator = np.random.default_rng(seed)
        self._logits = [
            tf.Variable(1e-3 * generator.standard_normal(len(options)), dtype=tf.float64)
            for options in choices.values()
        ]
        self._optimizer = tf_keras.optimizers.Adam(learning_rate, epsilon=1e-8)

    @property
    def probabilities(self) -> list[np.ndarray]:
        """Probability of every option, by choice."""
        return [tf.nn.softmax(logits).numpy() for logits in self._logits]

    @property
    def entropy(self) -> float:
        """Entropy of the joint distribution, in nats."""
        return float(-sum(np.sum(p * np.log(np.maximum(p, 1e-300))) for p in self.probabilities))

    def sample(self, generator: np.random.Generator) -> tuple[int, ...]:
        """Draws an option for every choice."""
        return tuple(int(generator.choice(len(p), p=p)) for p in self.probabilities)

    def best(self) -> tuple[int, ...]:
        """The likeliest option of every choice."""
        return tuple(int(np.argmax(p)) for p in self.probabilities)

    def update(self, samples: Sequence[tuple[Sequence[int], float]]) -> None:
        """One Adam step up the mean over samples of the gradient of `advantage * log p(indices)`.

        Args:
          samples: Indices and advantage of each; nothing happens if there are none.
        """
        if not samples:
            return
        gradients = [np.zeros_like(p) for p in self.probabilities]
        for indices, advantage in samples:
            for gradient, p, index in zip(gradients, self.probabilities, indices):
                gradient -= advantage / len(samples) * (np.eye(len(p))[index] - p)
        self._optimizer.apply_gradients(zip(map(tf.constant, gradients), self._logits))


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
    directory: Path,
    settings: SearchSettings,
    scorer: Scorer,
    limits: Limits,
    space: Space = PUBLISHED,
    progress: bool = False,
) -> dict:
    """Runs the search, or continues it: what `directory/trace.jsonl` holds is replayed without measuring.

    Args:
      directory: Owned by this process (`journals.workspace`).
      settings: Settings of the search.
      scorer: Scores topologies.
      limits: Topologies beyond them are not sampled.
      space: What is sampled from.
      progress: Show a progress bar on standard error.

    Returns:
      What `result.json` holds: the topology that takes the likeliest option of every choice, its counts, how many
      samples failed, and how many topologies the space has.

    Raises:
      UserError: Not one topology could be scored, or hardly any is within the limits.
    """
    journal = Journal(directory / "trace.jsonl")
    scalars = Scalars(directory)
    policy = Policy(settings.learning_rate, settings.seed, space.choices)
    reward_of = Reward({name: DIRECTIONS[name] for name in settings.reward_types}, settings.buffer_size)
    baseline_of = Baseline(settings.ema_momentum)
    _sample(
        policy, space, settings.seed, 0, 0, limits
    )  # Limits that leave nothing are refused before a progress bar appears.
    failed = 0
    total = settings.total_steps * settings.samples_per_step
    with tqdm.tqdm(total=total, desc="search", unit="topology", disable=not progress) as bar:
        for step in range(settings.total_steps):
            sampled = [
                _sample(policy, space, settings.seed, step, sample, limits)
                for sample in range(settings.samples_per_step)
            ]
            rows = _rows(journal, step, list(map(space.topology_at, sampled)), scorer, limits)
            moves = []
            for row, indices in zip(rows, sampled):
                reward = reward_of(row["scores"])
                row["reward"] = row["baseline"] = reward
                if reward is None:
                    failed += 1
                else:
                    row["baseline"] = baseline_of(reward)
                    moves.append((indices, reward - row["baseline"]))
                bar.update()
            policy.update(moves)
            for sample, row in enumerate(rows):
                row["entropy"] = policy.entropy
                if step * settings.samples_per_step + sample == len(journal.rows):
                    scalars.write(row, len(journal.rows))
                    journal.append(row)
            done = (step + 1) * settings.samples_per_step
            if failed == done and (failed >= _HOPELESS or failed == total):
                raise UserError(
                    f"none of {failed} topologies could be scored (see {directory / 'trace.jsonl'}); "
                    "images that are all alike have no NTK condition number"
                )
            best = space.topology_at(policy.best())
            bar.set_postfix_str(f"best {best}" + (f", {failed} failed" if failed else ""), refresh=False)
    topology = _within(policy, space, limits)
    counts = dict(steps=settings.total_steps, failed=failed, space_size=space.size)
    result = dict(topology=str(topology), **counts, **_counts(topology, limits))
    write_json(directory / "result.json", result)
    return result


def _sample(policy: Policy, space: Space, seed: int, step: int, sample: int, limits: Limits) -> tuple[int, ...]:
    """Draws until a topology is within the limits."""
    generator = np.random.default_rng([seed, step, sample])
    for _ in range(_DRAWS):
        indices = policy.sample(generator)
        if limits.allow(space.topology_at(indices)):
            return indices
    raise UserError(f"of {_DRAWS} topologies of the search space not one is within the limits; raise them")


def _within(policy: Policy, space: Space, limits: Limits) -> Topology:
    """The likeliest topology; if that is beyond the limits, the likeliest of many samples that is not."""
    best = policy.best()
    if not limits.allow(space.topology_at(best)):
        probabilities = policy.probabilities
        generator = np.random.default_rng(0)
        drawn = {policy.sample(generator) for _ in range(_DRAWS)}
        allowed = sorted(indices for indices in drawn if limits.allow(space.topology_at(indices)))
        if not allowed:
            raise UserError(f"the search ended on {space.topology_at(best)}, which is beyond the limits; raise them")
        best = max(allowed, key=lambda indices: sum(np.log(p[i]) for p, i in zip(probabilities, indices)))
    return space.topology_at(best)


def _rows(
    journal: Journal, step: int, topologies: Sequence[Topology], scorer: Scorer, limits: Limits
) -> list[dict[str, Any]]:
    """The rows of one step without what the policy adds: from the journal as far as it goes, then measured."""
    first = step * len(topologies)
    rows = [dict(row) for row in journal.rows[first : first + len(topologies)]]
    for row, topology in zip(rows, topologies):
        if row["topology"] != str(topology):
            raise UserError(
                f"step {step} replays as {topology}, but the trace has {row['topology']}: it was written by another "
                "version; choose another directory"
            )
    unknown = topologies[len(rows) :]
    for topology, score in zip(unknown, scorer(unknown) if unknown else ()):
        rows.append(
            dict(
                step=step,
                sample=len(rows),
                topology=str(topology),
                scores=score.measures,
                failures=score.failures,
                **_counts(topology, limits),
                seconds=score.seconds,
                split=score.split,
            )
        )
    return rows


def _counts(topology: Topology, limits: Limits) -> dict[str, int]:
    counted = limits.count(topology)
    return dict(parameters=counted.parameters, macs=counted.macs)
