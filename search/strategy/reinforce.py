"""REINFORCE: a policy that learns which options of the search space score well.

Each choice of the space has its own categorical distribution. A step samples a topology, scores it, and moves the
distributions towards it if its reward is above the moving average. The reward looks at each measure's change since
the topology before, in units of the measure's recent range. Source: the released search code, whose numbers these are;
where a measure failed, it kept -1 as a score, and we skip the update instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from asvit_tf.choices import DIRECTIONS
from search.strategy.settings import SearchSettings
from search.strategy.space import PUBLISHED, Space
from search.strategy.strategy import DRAWS, Indices

_RANGE_EPSILON = 1e-6


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


class Reinforce:
    """The strategy; see `strategy.Strategy`.

    Args:
      settings: Of the search.
      space: That is searched.
    """

    def __init__(self, settings: SearchSettings, space: Space):
        self._policy = Policy(settings.learning_rate, settings.seed, space.choices)
        self._reward_of = Reward({name: DIRECTIONS[name] for name in settings.reward_types}, settings.buffer_size)
        self._baseline_of = Baseline(settings.ema_momentum)

    def propose(self, generator: np.random.Generator) -> Indices:
        """A sample of the policy."""
        return self._policy.sample(generator)

    def learn(self, proposed: Sequence[Indices], rows: Sequence[dict[str, Any]]) -> None:
        """Updates the policy; `reward`, `baseline` and `entropy` go into the rows."""
        moves = []
        for row, indices in zip(rows, proposed, strict=True):
            reward = self._reward_of(row["scores"])
            row["reward"] = row["baseline"] = reward
            if reward is not None:
                row["baseline"] = self._baseline_of(reward)
                moves.append((indices, reward - row["baseline"]))
        self._policy.update(moves)
        for row in rows:
            row["entropy"] = self._policy.entropy

    def best(self) -> Indices:
        """The likeliest option of every choice."""
        return self._policy.best()

    def found(self, allowed: Callable[[Indices], bool]) -> Indices | None:
        """The best; if that is not allowed, the likeliest of many samples that is."""
        best = self._policy.best()
        if allowed(best):
            return best
        probabilities = self._policy.probabilities
        generator = np.random.default_rng(0)
        within = sorted(filter(allowed, {self._policy.sample(generator) for _ in range(DRAWS)}))
        if not within:
            return None
        return max(within, key=lambda indices: sum(np.log(p[i]) for p, i in zip(probabilities, indices)))
