r"""Training for twice as many episodes, three seeds (figure 35).

python -m instructrl.sweep --config=experiments/ablations/episodes.py:tiny \
    --workdir=DIR

The paper: with 512k episodes the scores on public tasks drift down in all three
seeds.
"""

from experiments.ablations import base

FIELD = 'ppo_ptx.ppo.num_iterations'


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.seeds = (0, 1, 2)  # figure 35
  c.plot.x = FIELD
  return c


def sweep(add, config):
  recipe = config.stages.ppo_ptx.ppo.num_iterations
  # The learning rate is constant: a run with fewer iterations is a prefix.
  for num_iterations in (recipe, 3 * recipe // 2, 2 * recipe):
    add({FIELD: num_iterations})
