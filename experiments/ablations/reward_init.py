r"""Where the reward model starts: pretrained, or SFT (appendix C.2).

python -m instructrl.sweep --config=experiments/ablations/reward_init.py:tiny \
    --workdir=DIR

The paper starts from a GPT-3 that was fine-tuned on public NLP sets; GPT-3 and
SFT give similar results.

Result of `tiny`, six seeds: the accuracy is 67.6% from the pretrained model,
66.5% from SFT and 66.7% from the model of public tasks. The first is 1.1 points
above SFT (95% interval -0.2 to 2.5); two points count as alike, so this is
undecided. A run takes one to three minutes of one core of an AMD EPYC server
CPU, beside another run.
"""

from experiments.ablations import base

FIELD = 'reward.inputs.init'


def starts(config):
  """Returns the paths of the pretrained and SFT models, and of `nlp` if any."""
  sft = config.stages.reward.inputs.init
  more = ('../nlp',) if 'nlp' in config.stages else ()
  return sft.replace('sft', 'pretrain'), sft, *more


def get_config(arg='tiny'):
  c = base.reward_model(arg)
  c.plot.x = FIELD
  c.plot.label = 'start of the reward model'
  pretrained, sft, *_ = starts(c)
  c.expected = (
    base.rise(
      base.ACCURACY,
      FIELD,
      pretrained,
      sft,
      'The pretrained model is as good a start as SFT',
      'similar',
      unit='points',
      quantity='accuracy, started from the pretrained model minus from SFT',
    )
    | dict(region=base.ALIKE),
  )
  return c


def sweep(add, config):
  for start in starts(config):
    add({FIELD: start})
