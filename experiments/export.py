"""Exports a policy, or a reward model, for transformers and vLLM.

python -m instructrl.main --config=experiments/export.py --workdir=DIR/export

This writes DIR/export/policy, like `python -m instructrl.convert export`.
"""

from experiments import common


def get_config(arg='125m'):
  """Ignores `arg`: the exported model has its own size."""
  c = common.base(arg, 'export')
  del c.inputs['data']
  c.inputs.policy = '../ppo_ptx'
  c.inputs.reward_model = ''  # if given, also write DIR/export/reward_model
  c.dtype = 'float32'  # of the written weights; or 'bfloat16'
  c.max_shard_size = 5_000_000_000  # most bytes of a file
  return c
