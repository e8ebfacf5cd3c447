"""Makes the simulated world: corpus, tokenizer, prompts, demonstrations.

python -m instructrl.main --config=experiments/lab.py:tiny --workdir=DIR/lab
"""

from experiments import common

# documents, prompts, examples of public tasks, vocabulary (pieces)
RECIPE = {
  'micro': (1500, 600, 160, 704),
  'tiny': (48_000, 20_000, 6400, 896),
  'small': (400_000, 30_000, 60_000, 2048),
}


def get_config(arg='tiny'):
  c = common.base(arg, 'lab', common.LAB_SIZES)
  del c.inputs['data']  # this stage has no inputs
  c.num_documents, c.num_prompts, c.num_public_tasks, c.vocab_size = RECIPE[arg]
  c.row_len = common.SIZES[arg][-1]  # tokens per packed row
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  # Fractions of the training prompts that are demonstrated and ranked; PPO gets
  # the rest of the customers'. Table 6 has 13k, 33k and 31k. With few
  # demonstrations, as in `tiny`, the validation loss of SFT rises after the
  # second epoch while its answers go on improving (C.1).
  c.demonstration_fraction = 0.1 if arg == 'tiny' else 0.4
  c.ranking_fraction = 0.4
  return c
