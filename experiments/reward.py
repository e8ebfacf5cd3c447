r"""Trains the reward model on K-way rankings (section 3.5, appendix C.2).

python -m instructrl.main --config=experiments/reward.py:tiny \
    --workdir=DIR/reward
"""

from experiments import common

# Prompts per update, peak learning rate. The paper (C.2): 64 prompts, up to
# 2,304 comparisons, and 9e-6 for the 6B model of all policies.
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
  c.inputs.init = '../sft'  # initial weights; SFT equals GPT-3 in the paper
  c.batch_size, peak_lr = RECIPE[arg]  # prompts
  c.num_epochs = 1  # more epochs overfit (C.2)
  # Prompts of similar length per gradient; 0 = as few as fill the devices.
  c.microbatch_size = 0
  c.max_responses = 9  # most responses per prompt, K
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.shuffled_pairs = False  # ablation of 3.5: each pair is its own example
  # Number of folds of training labelers, and the fold to hold out (E.2); folds
  # have as many labelers each, and labelers who are over are left out. 0 folds
  # = hold out the labelers that the rankings hold out.
  c.num_folds, c.fold = 0, 0
  c.optimizer = common.optimizer(peak_lr)  # cosine to 10% (C.2)
  # Updates between accuracy and log loss on validation rankings; 0 = once an
  # epoch.
  c.eval_every = {'micro': 0, 'tiny': 250}.get(arg, 50)
  # Validation rankings of a labeler group that are measured in training, drawn
  # by eval_seed; 0 = all. The reward model's result is measured on all.
  c.eval_prompts = 2048
  c.checkpoint.every = 50  # updates
  return c
