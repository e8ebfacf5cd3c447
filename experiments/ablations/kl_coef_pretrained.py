r"""KL coefficient towards GPT-3, without a pretraining mix (figure 34).

python -m instructrl.sweep \
    --config=experiments/ablations/kl_coef_pretrained.py:tiny --workdir=DIR

The paper: the KL is towards the pretrained model, but no coefficient from 1e-4
to 2 repairs the regressions on public tasks, and a large one costs reward.
"""

from experiments.ablations import base

FIELD = 'ppo.ppo.kl_coef'
# The recipe of a laptop uses 0.3; the paper uses 0.02.
GRID = {'micro': (0.01, 0.3, 3.0), 'tiny': (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)}
PAPER = (1e-4, 1e-3, 0.02, 0.1, 0.5, 2.0)


def get_config(arg='tiny'):
  c = base.ppo(arg, 'ppo')  # gamma is 0
  c.stages.ppo.inputs.reference = '../pretrain'  # instead of where PPO starts
  c.plot.x, c.plot.log = FIELD, True
  return c


def sweep(add, config):
  for kl_coef in GRID.get(config.size, PAPER):
    add({FIELD: kl_coef})
