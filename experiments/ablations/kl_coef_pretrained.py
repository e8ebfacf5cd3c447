r"""KL coefficient towards GPT-3, without a pretraining mix (figure 34).

python -m instructrl.sweep \
    --config=experiments/ablations/kl_coef_pretrained.py:tiny --workdir=DIR

The paper, at 1.3B: gamma is 0 and the KL is towards the pretrained model. F1 is
near 0 for beta below 0.003; the best are 54 (SQuADv2) and 21.5 (DROP), below
GPT-3's 59 and 25.4. The validation reward falls from 2.6 to -0.5 at 0.01 and to
-2.8.

Result of `tiny`, beta 0.0005 to 20: reading is 0.50 to 0.53 F1 at every beta,
below PPO's start (0.55) and the pretrained model (0.70), and translation is 53
to 55 BLEU, below them too (56 and 66). The validation reward falls from 0.18 to
-0.32. The start is 22 to 24 nats from the pretrained model; at beta 1.41 the
policy ends 13 and at 20 15.5 nats from it: a KL penalty does not bring back
what was lost before RL. A run takes 100 s (the median of 15) and its evaluation
66 s, on one core of an AMD EPYC server CPU, beside other runs.
"""

from experiments.ablations import base

FIELD = 'ppo.ppo.kl_coef'
# The paper's 9 values are 5e-5 to 2, 1/400 to 100 of its recipe's 0.02; so are
# those of `tiny`, whose recipe has 0.2.
PAPER = base.log_grid(5e-5, 40_000 ** (1 / 8), range(9))
TINY = base.log_grid(5e-4, 40_000 ** (1 / 4), range(5))
GRID = {'micro': TINY[::2], 'tiny': TINY}


def get_config(arg='tiny'):
  c = base.ppo(arg, 'ppo')  # gamma is 0
  c.stages.ppo.inputs.reference = '../pretrain'  # instead of where PPO starts
  c.plot.x, c.plot.log = FIELD, True
  c.plot.label = 'KL coefficient, beta'
  values = GRID.get(arg, PAPER)
  expected = [
    base.fall(
      base.REWARD,
      FIELD,
      values[-1],
      values[0],
      'A large beta costs validation reward',
      '2.6 to -2.8',
    )
  ]
  if c.lines:
    for title, paper in base.papers(('0 to 54, GPT 59', '0 to 21.5, GPT 25.4')):
      expected += [
        base.rise(
          title,
          FIELD,
          values[-1],
          values[0],
          f'{title} is lost at a small beta',
          paper,
          unit='points',
        ),
        base.against(
          title,
          {FIELD: values},
          f'{title} is below the pretrained model even at the best beta',
          paper,
          'max',
          unit='points',
        )
        | dict(region='negative'),
      ]
  c.expected = tuple(expected)
  return c


def sweep(add, config):
  for kl_coef in GRID.get(config.size, PAPER):
    add({FIELD: kl_coef})
