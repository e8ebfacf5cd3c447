r"""Held-out figures of a study on real data, which its report is made from.

python -m instructrl.main --config=experiments/heldout.py:cpu \
    --workdir=DIR/heldout
"""

from experiments import common

# prompts that are answered, packed rows whose loss is measured
RECIPE = {'cpu': (96, 96), 'full': (512, 1024)}


def get_config(arg='cpu'):
  common.check_size(arg, tuple(RECIPE))
  c = common.base('125m', 'heldout')
  c.size = arg
  c.inputs.data = '../data'
  c.inputs.rankings = '../data'
  c.inputs.reward_model = '../reward'
  c.inputs.reward_init = '../sft'  # what the reward model was trained from
  # An empty path leaves that policy out.
  c.inputs.base = '../import'
  for name in ('sft', 'ppo', 'ppo_ptx'):
    c.inputs[name] = f'../{name}'
  c.num_prompts, c.num_rows = RECIPE[arg]
  c.temperature = 1.0  # of the answers, for all policies
  c.prompt_len, c.response_len = common.REAL_LENGTHS[arg]  # tokens, at most
  c.batch_size = {'cpu': 16}.get(arg, 128)  # answers sampled at once
  return c
