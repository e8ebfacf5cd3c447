r"""Epochs of SFT, judged by validation loss and by the reward model (C.1).

python -m instructrl.sweep --config=experiments/ablations/sft_epochs.py:tiny \
    --workdir=DIR

The paper trained for 16 epochs. The validation loss is best after the first
epoch, and the reward model's score keeps rising.
"""

from experiments import sft
from experiments.ablations import base

# The model that is measured. The rankings and the reward model come from `sft`,
# which is the same for all points.
STAGE = 'candidate'
FIELD = f'{STAGE}.num_epochs'
GRID = {'micro': (1, 2), 'tiny': (1, 2, 4, 8), 'small': (1, 2, 4, 8)}


def get_config(arg='tiny'):
  c = base.get_config(arg, (), ())
  c.stages[STAGE] = sft.get_config(arg)
  c.ends = c.seeded = (STAGE,)
  c.measures = (
    ('validation loss, nats', STAGE, 'DONE', 'result.loss/validation'),
  )
  if 'select_sft' in c.stages:
    c.stages.select_sft.inputs.sft = f'../{STAGE}'
    c.ends += ('select_sft',)
    c.measures += (
      ('best RM score', 'select_sft', 'DONE', 'result.selected_score'),
      (
        'epoch of the best score',
        'select_sft',
        'DONE',
        'result.selected_epoch',
      ),
    )
  c.plot.x = FIELD
  return c


def sweep(add, config):
  for num_epochs in GRID.get(config.size, (1, 2, 4, 8, 16)):
    add({FIELD: num_epochs})
