"""Public data sets as prompts, demonstrations, rankings and a corpus.

python -m instructrl.main --config=experiments/data.py:1.3b --workdir=DIR/data \
    --config.rankings="('hh-rlhf/helpful-base',)"

All other stages take the folder as inputs.data and inputs.rankings. What a
source has is shown by `python -m instructrl.data SPEC`.
"""

from ml_collections import config_dict

from experiments import common


def get_config(arg='tiny'):
  c = common.base(arg, 'data')
  del c.inputs['data']  # it starts from files
  # A run folder whose tokenizer is used, such as an imported model's; '' trains
  # one on the documents and demonstrations.
  c.inputs.tokenizer = ''
  c.tokenizer = config_dict.ConfigDict()
  c.tokenizer.vocab_size = 8192  # pieces, where one is trained
  c.tokenizer.model_type = 'bpe'  # or 'unigram', 'word'
  # How an imported tokenizer lays out a prompt and a response: texts with
  # {prompt} and {response}, such as 'Human: {prompt}\n\nAssistant:' and
  # ' {response}'. '' and 'chat' are the imported model's own chat template.
  c.prompt_template = ''
  c.response_template = ''
  c.system = ''  # the system message of a chat template
  # Sources of each part: NAME[/SUBSET][:PATH][?limit=ROWS&option=value...].
  # Rankings given as demonstrations have their best response as one; for
  # prompts, which only PPO sees, any source with prompts will do.
  c.demonstrations = ()  # such as ('dolly',)
  c.rankings = ('hh-rlhf/helpful-base',)
  c.prompts = ()
  c.documents = ()  # for the pretraining mix
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.row_len = common.SIZES[arg][-1]  # tokens per packed row
  c.max_responses = 9  # K; of more a best, a worst and others are drawn
  # Ranked responses over response_len: 'drop' leaves them out, 'cut' cuts them.
  c.long_responses = 'drop'
  # Share that is held out. By user where users are known, else by prompt.
  c.validation_fraction = 0.05
  c.split_by = 'user'  # or 'prompt'
  c.resplit = False  # split sources again that have a split of their own
  # Share of the labelers whose rankings are for validation only.
  c.heldout_labelers = 0.0
  # Share of the ranked training prompts that only PPO sees. 0: it sees those of
  # `prompts`, or else all that are ranked. Table 6 has 31k beside 33k.
  c.ppo_fraction = 0.0
  # Of prompts whose first so many characters are the same one is kept (section
  # 3.2 has no number); 0 = all.
  c.dedup_prefix = 256
  c.max_per_user = 200  # prompts (section 3.2); 0 = all
  # Rows with an e-mail address, a phone or a card number: 'keep' or 'drop'.
  c.pii = 'keep'
  return c
