"""Rewards of your own: functions of prompts and responses.

  python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR/ppo \
      --config.rewards.brevity.kind=function \
      --config.rewards.brevity.function=examples.my_reward:brevity \
      --config.rewards.brevity.weight=0.1

adds 0.1 times `brevity` to the score of the reward model. With
--config.rewards.reward_model.weight=0 the function is the only reward; PPO then
needs no reward model, and the value model starts from the policy.

A function gets all prompts (`instructrl.data.records.Prompt`) and responses
(texts) of an iteration, and returns one finite number for each.
"""

import re

MAX_WORDS = 3
COLORS = re.compile(r'\b(red|green|blue)\b', re.IGNORECASE)


def brevity(prompts, responses):
  """Minus the number of words beyond MAX_WORDS."""
  del prompts
  return [-max(0, len(text.split()) - MAX_WORDS) for text in responses]


def names_a_color(prompts, responses):
  """1 if a response matches the regular expression, else 0."""
  del prompts
  return [float(bool(COLORS.search(text))) for text in responses]
