"""Pretraining on the lab's corpus: what GPT-3 is to the paper.

python -m instructrl.main --config=experiments/pretrain.py:tiny --workdir=DIR/pretrain
"""

from experiments import common

# rows per update, updates. Small updates: facts and copying are learned per
# update, so that 2,700 of 4 rows reach what 1,800 of 6 do not.
RECIPE = {'micro': (8, 60), 'tiny': (4, 2700), 'small': (32, 20_000)}


def get_config(arg='tiny'):
  c = common.base(arg, 'pretrain')
  c.model = common.model(arg)
  c.rows = 'corpus.rows'  # of inputs.lab: packed rows
  c.validation_rows = 'corpus_validation.rows'
  c.pretrain_rows = ''  # rows that are mixed in
  c.pretrain_mix = 0.0  # the fraction of such rows
  c.batch_size, c.num_steps = RECIPE[arg]  # rows per update; updates
  c.num_epochs = 0  # instead of num_steps
  c.microbatch_size = 0  # rows per gradient; 0 = batch_size
  c.logits_chunk = 4096  # tokens whose logits are in memory at once
  c.optimizer = common.optimizer(peak_lr=3e-3 if arg != 'small' else 1e-3)
  c.optimizer.weight_decay = 0.1  # GPT-3's (Brown et al. 2020, appendix B)
  c.optimizer.warmup_steps = c.num_steps // 20
  c.eval_every = -(-c.num_steps // 8)  # steps; 0 = once an epoch
  c.eval_batches = 16  # validation batches
  c.checkpoint.every = c.eval_every
  return c
