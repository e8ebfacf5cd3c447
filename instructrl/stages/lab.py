"""The lab stage: makes texts, prompts, demonstrations and a tokenizer.

Everything follows from a seed. The run folder holds what other stages read: the
data sets 'corpus', 'prompts' and 'demonstrations' (TFDS, ArrayRecord),
`tokenizer.model`, and the packed rows of the language-model stages.
"""

from collections.abc import Sequence
import itertools
import json
import pathlib

import numpy as np

from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.folder import DataFolder
from instructrl.data.records import check_no_leak, Demonstration, Prompt
from instructrl.lab.marking import judge
from instructrl.lab.people.labelers import make_labelers
from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.world import corpus
from instructrl.lab.world import sizes
from instructrl.lab.world.facts import make_world
from instructrl.lab.world.facts import World
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.tokenizers import trained

STAGES = ('lab',)


def validate(config):
  """Raises a ConfigError that names a field that cannot be used."""
  checks.validate_common(config)
  checks.within(config, 'size', choices=tuple(sizes.SIZES))
  checks.positive(
    config,
    'num_documents',
    'num_prompts',
    'vocab_size',
    'row_len',
    'prompt_len',
    'response_len',
  )
  fractions = ('demonstration_fraction', 'ranking_fraction')
  checks.within(config, *fractions, above=0, below=1)
  checks.require(
    config.demonstration_fraction + config.ranking_fraction < 1,
    'demonstration_fraction and ranking_fraction leave no prompt for PPO',
  )


def demonstrations(
  labelers, prompts: Sequence[Prompt], seed: int
) -> list[Demonstration]:
  """Returns one demonstration per prompt, by a training labeler."""
  writers = [l for l in labelers if l.group == 'train']
  out = []
  for i, prompt in enumerate(prompts):
    rng = np.random.default_rng([seed, 11, i])
    writer = writers[int(rng.integers(len(writers)))]
    out.append(
      Demonstration(
        prompt=prompt,
        response=writer.demonstrate(prompt, rng),
        labeler=writer.name,
      )
    )
  return out


def is_lab(folder) -> bool:
  """Returns whether the lab stage made a data folder."""
  path = pathlib.Path(folder) / run_folder.CONFIG
  return path.exists() and files.read_json(path).get('stage') == 'lab'


def load_world(lab_dir) -> World:
  """Returns the world that a lab folder was made from."""
  checks.require(
    is_lab(lab_dir),
    f'{lab_dir} was not made by the `lab` stage; this stage needs the '
    "lab's simulated world and labelers",
  )
  config = json.loads((pathlib.Path(lab_dir) / 'config.json').read_text())
  return make_world(config['world_seed'], config['size'])


def load_labelers(world) -> list:
  """Returns the labelers of a world, with the priorities of training data."""
  return list(make_labelers(world, world.seed))


def final_labelers(world) -> list:
  """Returns the labelers with the priorities of final evaluations (B.2)."""
  return [labeler.final() for labeler in load_labelers(world)]


def make_judge(lab_dir) -> judge.Judge:
  """Returns the judge of a lab folder."""
  world = load_world(lab_dir)
  return judge.Judge(world, final_labelers(world))


def run(config, workdir, label: str = '') -> dict:
  """Writes the lab's folder. Finished data sets are not made again."""
  validate(config)
  if not processes.primary():
    return {}  # process 0 writes; the others wait for it in the runner
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  run_folder.write_config(workdir, config.to_dict())
  seed = config.world_seed
  made_from = files.fingerprint(config.to_dict())
  folder = DataFolder(workdir)
  with Progress('lab', 4, label=label) as progress:
    world = make_world(seed, config.size)
    documents = list(
      corpus.generate_documents(world, config.num_documents, seed)
    )
    folder.write_records('corpus', store.by_split(documents), made_from)
    progress.update(1, {'documents': len(documents)})

    prompts = generate_prompts(world, config.num_prompts, seed)
    others = store.by_split(prompts)
    train = others.pop('train', [])
    for other in others.values():
      check_no_leak(train, other)
    # Three parts that share no prompt (Table 6): demonstrated, ranked, PPO's. A
    # reward model remembers the noise of what it was trained on.
    first = round(len(train) * config.demonstration_fraction)
    second = first + round(len(train) * config.ranking_fraction)
    parts = {'train': train[first:second], 'ppo': train[second:], **others}
    shown = demonstrations(
      load_labelers(world), train[:first] + others.get('validation', []), seed
    )
    folder.write_records('prompts', parts, made_from)
    folder.write_records('demonstrations', store.by_split(shown), made_from)
    progress.update(2, {'prompts': len(prompts)})

    texts = itertools.chain(
      (d.text for d in documents if d.split == 'train'),
      (
        d.prompt.text + '\n' + d.response
        for d in shown
        if d.prompt.split == 'train'
      ),
    )
    tok = trained.Tokenizer(trained.train_tokenizer(texts, config.vocab_size))
    folder.write_tokenizer(tok)
    progress.update(3, {'pieces': tok.vocab_size})

    fits = lambda d: tasks.fits(
      tasks.chat_prompt(tok, d.prompt), config.prompt_len
    )
    rows = folder.write_rows(
      store.by_split(documents),
      store.by_split(filter(fits, shown)),
      tok,
      row_len=config.row_len,
      response_len=config.response_len,
      made_from=made_from,
    )
    packed = rows['corpus.rows'].load()
    progress.update(4)
  return {
    'documents': len(documents),
    'vocab_size': tok.vocab_size,
    'corpus_tokens': int(packed['loss_mask'].sum()),
    'corpus_rows': len(packed['tokens']),
    'corpus_fullness': tasks.fullness(packed),
    'demonstrations': sum(d.prompt.split == 'train' for d in shown),
    'prompts': {name: len(part) for name, part in parts.items()},
    'facts': len(world.facts),
    'misconceptions': len(world.misconceptions),
  }
