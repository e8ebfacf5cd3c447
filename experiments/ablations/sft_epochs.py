r"""Epochs of SFT, judged by validation loss and by the reward model (C.1).

python -m instructrl.sweep --config=experiments/ablations/sft_epochs.py:tiny \
    --workdir=DIR

The paper trained for 16 epochs. The validation loss is best after the first
epoch, and the reward model's score keeps rising.

A cosine schedule ends with its run, so an epoch of a longer run is no shorter
run: as in the paper, each number of epochs is a run of its own. Loss and score
are those of its last epoch, on the same validation prompts.

Result of `tiny`, 1, 2, 4, 8 and 16 epochs, three seeds: the validation loss is
0.80, 0.69, 0.69, 0.88 and 1.29 nats, the score -0.15, -0.09, -0.04, -0.04 and
0.01. From the first to the last the loss rises by 0.49 (95% interval 0.45 to
0.54) and the score by 0.17 (0.11 to 0.22): both are shown. The 30 runs take 13
minutes of one core of an AMD EPYC server CPU, with a run on each of two cores.
"""

from experiments import sft
from experiments.ablations import base

# The model that is measured. The rankings and the reward model come from `sft`,
# which is the same for all points.
STAGE = 'candidate'
FIELD = f'{STAGE}.num_epochs'
PAPER = (1, 2, 4, 8, 16)
GRID = {'micro': (1, 2)}
LOSS, SCORE = 'validation loss, nats', 'RM score'


def get_config(arg='tiny'):
  c = base.get_config(arg, (), ())
  c.stages[STAGE] = sft.get_config(arg)
  c.ends = c.seeded = (STAGE,)
  c.measures = ((LOSS, STAGE, 'DONE', 'result.loss/validation'),)
  first, *_, last = GRID.get(arg, PAPER)
  expected = [
    base.rise(
      LOSS,
      FIELD,
      last,
      first,
      'The validation loss is better after one epoch than after the last',
      'overfits after one epoch',
      unit='nats',
    )
  ]
  if 'select_sft' in c.stages:
    c.stages.select_sft.inputs.sft = f'../{STAGE}'
    c.ends += ('select_sft',)
    c.measures += ((SCORE, 'select_sft', 'DONE', 'result.last_score'),)
    expected.append(
      base.rise(
        SCORE,
        FIELD,
        last,
        first,
        'The RM score goes on rising after one epoch',
        'rises to 16 epochs',
      )
    )
  c.expected = tuple(expected)
  c.plot.x, c.plot.log = FIELD, True
  c.plot.label = 'epochs of SFT'
  return c


def sweep(add, config):
  for num_epochs in GRID.get(config.size, PAPER):
    add({FIELD: num_epochs})
