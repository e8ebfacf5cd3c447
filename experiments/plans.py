"""Plans runs of the paper's sizes on TPU slices.

python -m instructrl.aot --config=experiments/plans.py --workdir=DIR

`plans.py:ppo_ptx_6b` selects one plan. Any field can be set, as in
`--config.plans.ppo_ptx_6b.config.ppo.generate_microbatch_size=128`.
"""

from ml_collections import config_dict

from experiments import ppo_init
from experiments import ppo_ptx
from experiments import pretrain
from experiments import reward
from experiments import sft

# For few chips: smaller microbatches for sampling and for gradients.
SMALL_1_3B = {
  'ppo.generate_microbatch_size': 128,
  'ppo.microbatch_size': 32,
  'ppo.ptx_microbatch_size': 32,
  'ppo.score_microbatch_size': 32,
}
SMALL_6B = {
  'ppo.generate_microbatch_size': 128,
  'ppo.microbatch_size': 32,
  'ppo.ptx_microbatch_size': 32,
}
SAMPLED_175B = {'ppo.generate_microbatch_size': 128}
SMALL_175B = SAMPLED_175B | {
  'ppo.microbatch_size': 32,
  'ppo.ptx_microbatch_size': 32,
}

# Plan -> experiment, size, fields that differ from the experiment, slices from
# small to large. The large plans are last, because they compile longest.
PLANS = {
  'pretrain_1_3b': (pretrain, '1.3b', {}, ('v5e:8x8',)),
  'sft_1_3b': (sft, '1.3b', {}, ('v5e:2x2', 'v5e:2x4')),
  'ppo_init_1_3b': (ppo_init, '1.3b', {}, ('v5e:2x2', 'v5e:2x4')),
  'reward_1_3b': (reward, '1.3b', {}, ('v5e:4x4',)),
  'reward_6b': (reward, '6b', {}, ('v5p:2x2x2', 'v5p:2x2x4')),
  'ppo_ptx_1_3b_small': (ppo_ptx, '1.3b', SMALL_1_3B, ('v5e:4x4', 'v5e:4x8')),
  'ppo_ptx_1_3b': (
    ppo_ptx,
    '1.3b',
    {},
    ('v5e:4x8', 'v5e:8x8', 'v5e:8x16', 'v5e:16x16'),
  ),
  'ppo_ptx_6b_small': (ppo_ptx, '6b', SMALL_6B, ('v5p:2x2x2',)),
  'ppo_ptx_6b': (ppo_ptx, '6b', {}, ('v5p:2x2x4', 'v5p:2x4x4', 'v5p:4x4x4')),
  'ppo_ptx_175b_small': (ppo_ptx, '175b', SMALL_175B, ('v5p:4x4x8',)),
  'ppo_ptx_175b': (ppo_ptx, '175b', SAMPLED_175B, ('v5p:4x8x8', 'v5p:8x8x8')),
}


def get_config(arg='all'):
  if arg != 'all' and arg not in PLANS:
    raise ValueError(
      f'there is no plan {arg!r}; the plans are all, {", ".join(PLANS)}'
    )
  c = config_dict.ConfigDict()
  c.order = tuple(PLANS) if arg == 'all' else (arg,)
  c.plans = config_dict.ConfigDict()
  for key in c.order:
    experiment, size, fields, slices = PLANS[key]
    config = experiment.get_config(size)
    config.update_from_flattened_dict(fields)
    name = ' '.join(
      [f'{config.stage}:{size}', *(f'{k}={v}' for k, v in fields.items())]
    )
    c.plans[key] = config_dict.ConfigDict(
      dict(name=name, config=config, slices=slices)
    )
  return c
