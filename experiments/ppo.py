"""PPO against the reward model with a KL reward (section 3.5, appendix C.4).

python -m instructrl.main --config=experiments/ppo.py:tiny --workdir=DIR/ppo
"""

from ml_collections import config_dict

from experiments import common

# batch, minibatch, iterations. The paper (C.4): 256k episodes, 512 an iteration,
# in 8 minibatches of 64.
RECIPE = {
  'micro': (16, 8, 6),
  'tiny': (64, 16, 60),
  'small': (256, 64, 500),
  **dict.fromkeys(common.PAPER_SIZES, (512, 64, 500)),
}
# One 6B reward model for all policies (C.2); the paper has no 125M.
REWARD_MODEL = {'1.3b': '6b', '175b': '6b'}
# Peak rates of the policy and the value model. The paper prints the value
# model's (C.4). The policy's was picked from a log-linear scan of 2.55e-6 to
# 2.55e-5 (1.3B, 6B), whose middle this is, or of 2.55e-6 and 3.74e-6 (175B).
PEAK_LR = {
  '125m': (8.06e-6, 9e-6),
  '1.3b': (8.06e-6, 9e-6),
  '6b': (8.06e-6, 9e-6),
  '175b': (2.55e-6, 5e-6),
}


def get_config(arg='tiny'):
  c = common.base(arg, 'ppo')
  laptop, paper = arg in ('micro', 'tiny'), arg in common.PAPER_SIZES
  c.model = common.model(arg)  # the policy
  # Frozen, and otherwise as what they start from; of the other fields of a
  # model, those that do not change what it computes may differ.
  c.reference_model = common.same_model(c.model)
  c.reward_model = common.model(REWARD_MODEL.get(arg, arg))
  c.value_model = common.same_model(c.reward_model)
  if paper:  # frozen weights are 16-bit (C)
    c.value_model.param_dtype = 'float32'
    c.reference_model.param_dtype = c.reward_model.param_dtype = 'bfloat16'
  # Rules of a model that differ from those of `rules`. `generate` is the policy
  # while it samples: whole along fsdp, or every token would gather the weights.
  c.model_rules = config_dict.ConfigDict(
    dict(
      reference_model=(),
      reward_model=(),
      value_model=(),
      generate=(('embed', None),),
    )
  )
  # What waits in the memory of the hosts, and is copied to the devices where it
  # is needed: the KL's reference in scoring, the average after each minibatch.
  # The numbers are the same; it takes less memory of the devices, and time.
  c.offload = config_dict.ConfigDict(dict(reference=False, ema=False))
  c.inputs.policy = '../ppo_init'
  c.inputs.reference = ''  # of the KL; empty is inputs.policy (C.3)
  c.inputs.reward_model = '../reward'  # also where the value model starts
  c.prompts_split = 'ppo'  # of the lab's prompts; no labeler saw them
  p = c.ppo = config_dict.ConfigDict()
  p.batch_size, p.minibatch_size, p.num_iterations = RECIPE[arg]
  p.prompt_len, p.response_len = common.LENGTHS[arg]  # tokens, at most
  p.num_ppo_epochs = 1  # inner epochs (C.4)
  p.microbatch_size = 0  # episodes per gradient; 0 = minibatch_size
  p.generate_microbatch_size = 0  # episodes sampled at once; 0 = batch_size
  # Episodes scored at once; 0 = batch_size.
  p.score_microbatch_size = 64 if paper else 0
  p.temperature = 1.0  # C.4
  p.top_p = 1.0  # PPO samples from the whole distribution: only 1 is allowed
  # beta. The paper has 0.02 (C.4) for a reward model of 6B parameters; those of
  # a laptop are over-optimised beyond half a nat.
  p.kl_coef = 0.3 if laptop else 0.02
  p.adaptive_kl_target = 0.0  # nats per response; 0 = a fixed kl_coef
  p.adaptive_kl_horizon = 10_000.0  # episodes (Ziegler et al. 2019)
  p.ptx_coef = 0.0  # the paper's gamma; 0 is PPO, 27.8 its PPO-ptx
  p.ptx_examples_per_episode = 8 if paper else 1  # rows (C.4: 8)
  # Rows per gradient; 0 = all of a minibatch.
  p.ptx_microbatch_size = 64 if paper else 0
  p.discount = 1.0  # section 3.5: a bandit
  p.gae_lambda = 0.95  # not printed; the field's default
  p.clip_eps = 0.2  # C.4
  p.value_clip_eps = 0.2  # not printed; the field's default
  p.whiten_advantages = True  # not printed; the field's default
  # Per optimizer step. The paper has 0.992 over 4,000 steps (C.4); a short
  # run needs a shorter memory.
  p.ema_decay = {'micro': 0.5, 'tiny': 0.97}.get(arg, 0.992)
  p.missing_eos = 'none'  # or 'penalty', 'fixed': a response without an end
  p.missing_eos_amount = 0.0  # subtracted from, or put for, its score
  # Tokens whose logits are in memory at once, on all devices together: a chunk
  # that gives a device little to do gathers the unembedding for it all the same.
  p.logits_chunk = 65_536 if paper else 4096
  p.warmup_iterations = 10  # from 0.1 of the peak, then constant (C.4)
  policy_lr, value_lr = PEAK_LR.get(arg, (2e-4, 3e-4))  # the lab's are tuned
  c.optimizer = common.optimizer(policy_lr)
  c.value_optimizer = common.optimizer(value_lr)
  for o in (c.optimizer, c.value_optimizer):
    o.schedule = 'constant'
    o.warmup_from = 0.1
  c.eval_every = 10  # iterations between NLL evaluations
  c.eval_batches = 8  # of eval_batch_size rows
  c.eval_batch_size = 64 if paper else 16
  c.samples_every = 10  # iterations between samples in samples.jsonl
  c.checkpoint.every = 20
  return c
