r"""Where PPO starts: its epochs and its pretraining mix (figure 37).

python -m instructrl.sweep --config=experiments/ablations/init_mix.py:tiny \
    --workdir=DIR

The paper tried 1 and 2 epochs and a mix of 0, 10 and 50%. PPO-ptx hardly
depends on either; 10% is slightly better.
"""

from experiments.ablations import base

EPOCHS, MIX = 'ppo_init.num_epochs', 'ppo_init.pretrain_mix'
# The small models of a laptop need four epochs; the paper uses two.
EPOCHS_GRID = {'tiny': (2, 4)}


def get_config(arg='tiny'):
  c = base.ppo(arg)
  c.seeded = ('ppo_init', 'ppo_ptx')
  c.plot.x, c.plot.by = MIX, EPOCHS
  return c


def sweep(add, config):
  for num_epochs in EPOCHS_GRID.get(config.size, (1, 2)):
    for pretrain_mix in (0.0, 0.1, 0.5):
      add({EPOCHS: num_epochs, MIX: pretrain_mix})
