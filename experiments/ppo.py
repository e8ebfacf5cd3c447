"""PPO against the reward model with a KL reward (section 3.5, appendix C.4).

python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR/ppo
"""

from ml_collections import config_dict

from experiments import common
from instructrl.rewards import rewards_settings
from instructrl.stages import ppo_settings

# Episodes per iteration, episodes per minibatch, iterations. The paper (C.4):
# 256k episodes, 512 an iteration, in 8 minibatches of 64.
RECIPE = {
  'micro': (16, 8, 6),
  'tiny': (64, 16, 60),
  'small': (256, 64, 500),
  **dict.fromkeys(common.PAPER_SIZES, (512, 64, 500)),
}
# One 6B reward model for all policies (C.2); the paper has no 125M.
REWARD_MODEL = {'1.3b': '6b', '175b': '6b'}
# Peak learning rates of the policy and the value model. The value model's are
# printed (C.4). The policy's are those of the best bars of Fig. 38 (E.9), read
# by eye: without pretraining gradients, all rates above 8.05e-6 diverge. The
# paper has no 125M, which has the values of 1.3B.
PEAK_LR = {
  'tiny': (1.5e-4, 3e-4),  # tuned for the lab
  '125m': (3.74e-6, 9e-6),
  '1.3b': (3.74e-6, 9e-6),
  '6b': (2.55e-6, 9e-6),
  '175b': (2.55e-6, 5e-6),
}


class Rewards(common.Open):
  """Terms by name: --config.rewards.NAME.weight=0.1 makes the term NAME."""

  @staticmethod
  def fresh():
    return config_dict.ConfigDict(rewards_settings.defaults())


def get_config(arg='tiny'):
  c = common.base(arg, 'ppo')
  laptop, paper = arg in ('micro', 'tiny'), arg in common.PAPER_SIZES
  c.model = common.model(arg)  # the policy
  # The other models. Their architecture must be that of their inputs; fields
  # that do not change results may differ.
  c.reference_model = common.same_model(c.model)
  c.reward_model = common.model(REWARD_MODEL.get(arg, arg))
  c.value_model = common.same_model(c.reward_model)
  if paper:  # frozen weights are 16-bit (C)
    c.value_model.param_dtype = 'float32'
    c.reference_model.param_dtype = c.reward_model.param_dtype = 'bfloat16'
  # Sharding rules of a model that differ from `rules`. `generate` is the policy
  # while it samples: it is not sharded over fsdp, or every token would gather
  # the weights.
  c.model_rules = config_dict.ConfigDict(
    dict(
      reference_model=(),
      reward_model=(),
      value_model=(),
      generate=(('embed', None),),
    )
  )
  # Keep the KL reference, or the average of the policy, in host memory while it
  # is not in use. Results are the same bits; it saves device memory and costs
  # time.
  c.offload = config_dict.ConfigDict(dict(reference=False, ema=False))
  c.inputs.policy = '../ppo_init'
  c.inputs.reference = ''  # KL reference; '' = inputs.policy (C.3)
  c.inputs.prompts = ''  # data folder with prompts; '' = inputs.data
  # The score is the weighted sum of these terms (instructrl/rewards/
  # rewards_settings.py); a weight of 0 disables a term. The value model starts
  # from the reward model (section 3.5), or from the policy if there is none.
  # Flags add terms: --config.rewards.NAME.path=../other_reward.
  c.rewards = Rewards()
  c.rewards.reward_model.path = '../reward'
  c.prompts_split = 'ppo'  # split of the prompts; labelers did not see them
  # Defaults, bounds, units and sources: instructrl/stages/ppo_settings.py.
  p = c.ppo = config_dict.ConfigDict(ppo_settings.defaults())
  p.batch_size, p.minibatch_size, p.num_iterations = RECIPE[arg]
  p.prompt_len, p.response_len = common.LENGTHS[arg]
  if paper:  # what fits the memory of a device
    p.score_microbatch_size = p.ptx_microbatch_size = 64
  else:
    p.ptx_examples_per_episode = 1
    p.logits_chunk = 4096
    p.rollout_slots = p.batch_size // 4
  if laptop:
    # The paper's 0.02 is for a reward model of 6B parameters; a laptop's reward
    # model is over-optimized beyond half a nat.
    p.kl_coef = {'micro': 0.3, 'tiny': 0.2}[arg]
    # The paper's 0.992 is for 4,000 steps; a short run needs a shorter average.
    p.ema_decay = {'micro': 0.5, 'tiny': 0.97}[arg]
  policy_lr, value_lr = PEAK_LR.get(arg, (2e-4, 3e-4))
  c.optimizer = common.optimizer(policy_lr)
  c.value_optimizer = common.optimizer(value_lr)
  for o in (c.optimizer, c.value_optimizer):
    o.schedule = 'constant'  # C.4
    o.warmup_from = 0.1  # C.4
  c.eval_every = 10  # iterations between NLL evaluations
  c.eval_batches = 8  # of eval_batch_size rows
  c.eval_batch_size = 64 if paper else 16
  # Validation prompts that the averaged policy answers after the last
  # iteration; DONE has the mean score and KL. 0 = none.
  c.validation_prompts = {'micro': 16, 'tiny': 512}.get(arg, 1024)
  c.samples_every = 10  # iterations between samples in samples.jsonl
  # Wait for each pass and write its seconds to timings.jsonl; costs speed.
  c.log.timings = False
  c.evals = common.evals()
  c.checkpoint.every = 20  # iterations
  return c
