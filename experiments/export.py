"""A policy, or a reward model, as a folder that transformers and vLLM load.

python -m instructrl.main --config=experiments/export.py --workdir=DIR/export

writes DIR/export/policy, as `python -m instructrl.convert export` does.
"""

from experiments import common


def get_config(arg='125m'):
  """`arg` is of no matter: the sizes are those of what is exported."""
  c = common.base(arg, 'export')
  del c.inputs['data']
  c.inputs.policy = '../ppo_ptx'
  c.inputs.reward_model = ''  # where it is given: DIR/export/reward_model
  c.dtype = 'float32'  # or 'bfloat16'
  c.max_shard_size = 5_000_000_000  # bytes of a file
  return c
