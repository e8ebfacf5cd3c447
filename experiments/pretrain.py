r"""Pretrains a GPT-3-shaped model on the corpus.

python -m instructrl.main --config=experiments/pretrain.py:tiny \
    --workdir=DIR/pretrain
"""

from experiments import common

# Rows per update, updates, peak learning rate. In the lab the number of updates
# matters: 2,700 updates of 4 rows learn more facts and copying than 1,800 of 6.
# The large sizes are those of Brown et al. 2020, table 2.1: 0.5M, 1M, 2M and
# 3.2M tokens per update, 300 billion tokens in all.
RECIPE = {
  'micro': (8, 60, 3e-3),
  'tiny': (4, 2700, 3e-3),
  'small': (32, 20_000, 1e-3),
  '125m': (256, 572_000, 6e-4),
  '1.3b': (512, 286_000, 2e-4),
  '6b': (1024, 143_000, 1.2e-4),
  '175b': (1536, 95_000, 0.6e-4),
}


def get_config(arg='tiny'):
  c = common.base(arg, 'pretrain')
  c.model = common.model(arg)
  c.rows = 'corpus.rows'  # packed rows in inputs.data
  c.validation_rows = 'corpus_validation.rows'  # the same, for validation
  c.pretrain_rows = ''  # rows to mix in
  c.pretrain_mix = 0.0  # fraction of the rows of a batch that are mixed in
  c.batch_size, c.num_steps, peak_lr = RECIPE[arg]  # in batch_unit; updates
  # Unit of batch_size: packed 'rows', or the 'examples' in them, one a row.
  c.batch_unit = 'rows'
  c.num_epochs = 0  # if positive, replaces num_steps
  # Rows per gradient; 0 = batch_size.
  c.microbatch_size = 256 if arg in common.PAPER_SIZES else 0
  # Tokens whose logits are in memory at once, on all devices together. Each
  # chunk gathers the unembedding, so small chunks are slow.
  c.logits_chunk = 65_536 if arg in common.PAPER_SIZES else 4096
  c.optimizer = common.optimizer(peak_lr)
  c.optimizer.weight_decay = 0.1  # Brown et al. 2020, appendix B
  # GPT-3 warms up for 375M of 300B tokens (appendix B).
  c.optimizer.warmup_steps = c.num_steps // (
    800 if arg in common.PAPER_SIZES else 20
  )
  c.eval_every = -(-c.num_steps // 8)  # steps; 0 = once an epoch
  c.eval_batches = 16  # number of validation batches
  c.checkpoint.every = c.eval_every
  c.evals = common.evals()
  # The most tokens of a prompt and a response, in evals.
  c.prompt_len, c.response_len = common.LENGTHS[arg]
  return c
