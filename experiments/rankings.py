r"""Samples K = 4..9 responses per prompt, which labelers rank, with ties.

python -m instructrl.main --config=experiments/rankings.py:tiny \
    --workdir=DIR/rankings
"""

from ml_collections import config_dict

from experiments import common

# Prompts for training, for validation, and to calibrate the noise.
RECIPE = {
  'micro': (64, 24, 24),
  'tiny': (6000, 200, 400),
  'small': (6000, 600, 600),
}


def get_config(arg='tiny'):
  c = common.base(arg, 'rankings', common.LAB_SIZES)
  c.inputs.base = '../pretrain'
  c.inputs.sft = '../sft'
  c.inputs.early_sft = '../sft'
  # Step of an input that is sampled; '' is the newest. 'first' is the end of
  # the first SFT epoch, whose answers vary more than those of the last one.
  c.steps = config_dict.ConfigDict(dict(base='', sft='', early_sft='first'))
  # Candidates: (policy, temperature, samples), and one demonstration. Most are
  # SFT's, because PPO starts from such responses.
  c.sources = (
    ('sft', 1.0, 5),
    ('early_sft', 1.0, 2),
    ('early_sft', 0.5, 3),
    ('base', 0.9, 1),
    ('base', 0.5, 1),
  )
  c.min_responses, c.max_responses = 4, 9  # K (section 3.5)
  c.num_prompts, c.num_validation, c.num_calibration = RECIPE[arg]
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.batch_size = 128  # responses sampled at once
  return c
