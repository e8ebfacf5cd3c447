"""The reward model, on K-way rankings (section 3.5, appendix C.2).

python -m instructrl.main --config=experiments/reward.py:tiny --workdir=DIR/reward
"""

from experiments import common

# prompts per update, peak learning rate. The paper (C.2): 64 prompts, up to
# 2,304 comparisons, and 9e-6 for the 6B model it uses for all policies.
RECIPE = {
  'micro': (8, 1e-3),
  'tiny': (8, 1e-3),
  'small': (32, 2e-4),
  **dict.fromkeys(common.PAPER_SIZES, (64, 9e-6)),
}


def get_config(arg='tiny'):
  c = common.base(arg, 'reward')
  c.model = common.model(arg)
  c.inputs.rankings = '../rankings'
  c.inputs.init = '../sft'  # the paper: GPT-3 or SFT make no difference
  c.batch_size, peak_lr = RECIPE[arg]  # prompts
  c.num_epochs = 1  # more overfit (C.2)
  c.microbatch_size = 0  # prompts per gradient; 0 = batch_size
  c.max_responses = 9  # K
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.shuffled_pairs = False  # ablation of C.2: every pair its own element
  # Labelers are divided among so many folds, of which one is held out, as in
  # E.2; 0 = the labelers that the rankings themselves hold out.
  c.num_folds, c.fold = 0, 0
  c.optimizer = common.optimizer(peak_lr)  # cosine to 10% (C.2)
  c.eval_every = 0  # updates; 0 = once an epoch
  c.checkpoint.every = 50
  return c
