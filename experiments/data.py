"""Makes a data folder from public data sets or from your own files.

python -m instructrl.main --config=experiments/data.py:1.3b --workdir=DIR/data \
    --config.rankings="('hh-rlhf/helpful-base',)"

Your own data alone, with a tokenizer trained on it:

python -m instructrl.main --config=experiments/data.py:tiny --workdir=DIR/data \
    --config.documents="('text:pages.txt',)" \
    --config.demonstrations="('jsonl:demonstrations.jsonl',)" \
    --config.rankings="('jsonl:rankings.jsonl',)"

The other stages take the folder as inputs.data and as inputs.rankings. `python
-m instructrl.data SPEC` shows the contents of a source.
"""

from ml_collections import config_dict

from experiments import common


def get_config(arg='tiny'):
  c = common.base(arg, 'data')
  del c.inputs['data']  # this stage starts from files
  # Run folder whose tokenizer is used, such as an imported model's. '' trains a
  # tokenizer on the documents and demonstrations.
  c.inputs.tokenizer = ''
  c.tokenizer = config_dict.ConfigDict()
  c.tokenizer.vocab_size = 8192  # pieces, at most; for a trained tokenizer
  c.tokenizer.model_type = 'bpe'  # or 'unigram', 'word'
  # Templates of an imported tokenizer: texts with {prompt} and {response}, such
  # as 'Human: {prompt}\n\nAssistant:' and ' {response}'. '' and 'chat' are the
  # imported model's own chat template.
  c.prompt_template = ''
  c.response_template = ''
  c.system = ''  # system message of a chat template
  # Sources of each part: NAME[/SUBSET][:PATH][?limit=ROWS&option=value...].
  # A source of rankings may also give demonstrations (the best response of
  # each). Prompts, which only PPO sees, may come from any source with prompts.
  c.demonstrations = ()  # such as ('dolly',)
  c.rankings = ('hh-rlhf/helpful-base',)
  c.prompts = ()
  c.documents = ()  # for the pretraining mix
  c.prompt_len, c.response_len = common.LENGTHS[arg]  # tokens, at most
  c.row_len = common.SIZES[arg][-1]  # tokens per packed row
  c.max_responses = 9  # K; above it, a best, a worst and others are drawn
  # Responses longer than response_len: 'drop' or 'cut' them. Cut ones have no
  # EOS, which teaches the policy and the reward model not to end.
  c.long_responses = 'drop'
  # Share that is held out: of users where users are known, else of prompts.
  c.validation_fraction = 0.05
  c.split_by = 'user'  # or 'prompt'
  c.resplit = False  # split sources again that have a split of their own
  # Share of the labelers whose rankings are for validation only.
  c.heldout_labelers = 0.0
  # Share of the ranked training prompts that only PPO sees. 0: PPO sees those
  # of `prompts`, or all ranked prompts. Table 6 has 31k for PPO, 33k ranked.
  c.ppo_fraction = 0.0
  # Keep one prompt per shared prefix of this many characters (section 3.2 gives
  # no number); 0 = no deduplication.
  c.dedup_prefix = 256
  c.max_per_user = 200  # prompts (section 3.2); 0 = all
  # Rows with an e-mail address, a phone or a card number: 'keep' or 'drop'.
  c.pii = 'keep'
  # Processes that write the data sets, with the same result for any number.
  # 1 = no others; 0 = one per core if there are many rows.
  c.workers = 0
  return c
