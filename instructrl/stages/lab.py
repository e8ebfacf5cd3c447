"""The lab stage: makes texts, prompts, demonstrations and a tokenizer.

Everything follows from a seed. The run folder holds what other stages read: the
data sets 'corpus', 'prompts', 'demonstrations' and 'public_tasks' (TFDS,
ArrayRecord), `tokenizer.model`, and the packed rows of the language-model
stages.
"""

from collections.abc import Sequence
import dataclasses
import itertools
import json
import pathlib

import numpy as np

from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.folder import DataFolder
from instructrl.data.records import check_no_leak, Demonstration, Prompt
from instructrl.lab import public_tasks
from instructrl.lab.marking import judge
from instructrl.lab.people.labelers import make_labelers
from instructrl.lab.people.prompts import generate_gpt3_prompts
from instructrl.lab.people.prompts import generate_prompts
from instructrl.lab.world import corpus
from instructrl.lab.world import sizes
from instructrl.lab.world.facts import make_world
from instructrl.lab.world.facts import World
from instructrl.lab.world.specs import parse_spec
from instructrl.runtime import files
from instructrl.runtime import processes
from instructrl.runtime import run_folder
from instructrl.runtime.progress import Progress
from instructrl.stages import checks
from instructrl.tokenizers import trained

STAGES = ('lab',)
NOISE = 'noise.json'  # in a folder of rankings: {labeler: noise}
# The shares of labelers' prompts in demonstrations and rankings (Table 6).
SHOWN_SHARE = 11_295 / 12_725
RANKED_SHARE = 6_623 / 33_207


def validate(config):
  """Raises a ConfigError that names a field that cannot be used."""
  checks.validate_common(config)
  checks.within(config, 'size', choices=tuple(sizes.SIZES))
  checks.positive(
    config,
    'num_documents',
    'num_prompts',
    'num_public_tasks',
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


def split_train(
  prompts: Sequence[Prompt], demonstrated: float, ranked: float
) -> tuple[list[Prompt], list[Prompt], list[Prompt]]:
  """Splits training prompts into three parts that share none (Table 6).

  A reward model remembers the noise of its training data, so PPO has prompts of
  its own. They are customers'; labelers wrote most of the demonstrated prompts
  and a fifth of the ranked ones, as far as there are enough.

  Args:
    prompts: training prompts in random order.
    demonstrated: the fraction that is demonstrated.
    ranked: the fraction that is ranked.

  Returns:
    (demonstrated, ranked, PPO's). Labelers' prompts that are left are unused.
  """
  place = {prompt: i for i, prompt in enumerate(prompts)}
  by_labeler = [p for p in prompts if parse_spec(p.spec).source != 'customer']
  customers = [p for p in prompts if parse_spec(p.spec).source == 'customer']
  parts = []
  for fraction, share in ((demonstrated, SHOWN_SHARE), (ranked, RANKED_SHARE)):
    count = round(len(prompts) * fraction)
    some = by_labeler[: round(count * share)]
    rest = customers[: count - len(some)]
    by_labeler, customers = by_labeler[len(some) :], customers[len(rest) :]
    parts.append(sorted(some + rest, key=place.__getitem__))
  return parts[0], parts[1], customers


def _tokenizer(documents, shown, vocab_size: int) -> trained.Tokenizer:
  """Trains the tokenizer on the training texts."""
  texts = itertools.chain(
    (d.text for d in documents if d.split == 'train'),
    (
      d.prompt.text + '\n' + d.response
      for d in shown
      if d.prompt.split == 'train'
    ),
  )
  return trained.Tokenizer(trained.train_tokenizer(texts, vocab_size))


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


def with_noise(people: Sequence, folder: pathlib.Path) -> list:
  """Returns labelers with the noise that a run of `rankings` gave them.

  Raises:
    ConfigError: the run has no noise of a labeler.
  """
  path = folder / NOISE
  noise = files.read_json(path)
  missing = [l.name for l in people if l.name not in noise]
  checks.require(not missing, f'{path} has no labeler {", ".join(missing)}')
  return [dataclasses.replace(l, noise=noise[l.name]) for l in people]


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
    to_show, to_rank, to_learn = split_train(
      train, config.demonstration_fraction, config.ranking_fraction
    )
    gpt3 = generate_gpt3_prompts(world, len(prompts) // 10, seed, prompts)
    parts = {'train': to_rank, 'ppo': to_learn, **others, 'gpt3_test': gpt3}
    shown = demonstrations(
      load_labelers(world), [*to_show, *others.get('validation', ())], seed
    )
    folder.write_records('prompts', parts, made_from)
    folder.write_records('demonstrations', store.by_split(shown), made_from)
    progress.update(2, {'prompts': len(prompts)})

    tok = _tokenizer(documents, shown, config.vocab_size)
    folder.write_tokenizer(tok)
    progress.update(3, {'pieces': tok.vocab_size})

    fits = lambda d: tasks.fits(
      tasks.chat_prompt(tok, d.prompt), config.prompt_len
    )
    lengths = dict(row_len=config.row_len, response_len=config.response_len)
    rows = folder.write_rows(
      store.by_split(documents),
      store.by_split(filter(fits, shown)),
      tok,
      made_from=made_from,
      **lengths,
    )
    public = public_tasks.generate(world, config.num_public_tasks, seed)
    by_split = store.by_split(public)
    name = 'public_tasks'
    folder.write_records(name, by_split, made_from)
    folder.write_rows(
      {}, by_split, tok, name=name, made_from=made_from, **lengths
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
    'public_tasks': len(public),
    'prompts': {name: len(part) for name, part in parts.items()},
    'facts': len(world.facts),
    'misconceptions': len(world.misconceptions),
  }
