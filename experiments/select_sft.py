r"""Selects the SFT checkpoint by RM score on validation prompts (C.1).

python -m instructrl.main --config=experiments/select_sft.py:tiny \
    --workdir=DIR/select_sft
"""

from experiments import common


def get_config(arg='tiny'):
  c = common.base(arg, 'select_sft', common.LAB_SIZES)
  c.inputs.sft = '../sft'
  c.inputs.reward_model = '../reward'
  c.num_prompts = {'micro': 16, 'tiny': 400, 'small': 500}[arg]  # validation
  c.temperature = 1.0  # of the scored samples
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.batch_size = 128  # responses sampled at once
  return c
