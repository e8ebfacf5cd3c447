"""A toy lab, toy rankings and untrained models, for the trainers.

They lie side by side as the stages of a study do, so that the experiments'
relative inputs find them. The texts are made of six words; a response is
better the more often it says 'red'.
"""

import contextlib
import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from instructrl.data import rows
from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.records import Demonstration, Document, Prompt, Ranking
from instructrl.runtime import ahead
from instructrl.runtime import sharding
from instructrl.runtime.checkpointer import Checkpointer
from instructrl.stages import build
from instructrl.stages import run
from instructrl.tokenizers.trained import Tokenizer
from instructrl.tokenizers.trained import train_tokenizer
from tests import tiny
from tests.stages import stages

WORDS = ('red', 'green', 'blue', 'cat', 'dog', 'fish')
ROW_LEN = 16


def sentence(rng, longest):
  return ' '.join(rng.choice(WORDS, rng.integers(1, longest + 1)))


def toy_prompts(count, split, rng):
  return [
    Prompt(
      id=f'{split}{i}',
      text=f'say {sentence(rng, 3)}',
      user='u',
      use_case='chat',
      split=split,
    )
    for i in range(count)
  ]


def toy_rankings(prompts, group, tok, rng):
  out = []
  for prompt in prompts:
    responses = tuple(sentence(rng, 4) for _ in range(rng.integers(2, 5)))
    reds = [-text.split().count('red') for text in responses]
    out.append(
      Ranking(
        prompt=prompt,
        labeler='l',
        group=group,
        responses=responses,
        response_tokens=tuple(
          tuple(tasks.response_tokens(tok, text, 6)) for text in responses
        ),
        sources=('sft',) * len(responses),
        temperatures=(1.0,) * len(responses),
        ranks=tuple(sorted(set(reds)).index(n) for n in reds),
        prompt_tokens=tuple(tasks.chat_prompt(tok, prompt)),
      )
    )
  return out


def write_lab(folder: pathlib.Path) -> Tokenizer:
  rng = np.random.default_rng(0)
  folder.mkdir()
  tok = Tokenizer(
    train_tokenizer(['say ' + sentence(rng, 9) for _ in range(40)], 300)
  )
  tok.save(folder / Tokenizer.FILE)
  prompts = {
    split: toy_prompts(count, split, rng)
    for split, count in (('train', 20), ('validation', 6))
  }
  unseen = [
    dataclasses.replace(p, id=f'ppo{i}', text=f'say {p.text}')
    for i, p in enumerate(prompts['train'])
  ]
  store.write_records(folder, 'prompts', {**prompts, 'ppo': unseen})
  shown = {
    split: [
      Demonstration(prompt=p, response=sentence(rng, 4), labeler='l')
      for p in some
    ]
    for split, some in prompts.items()
  }
  store.write_records(folder, 'demonstrations', shown)
  made = {}
  for split, suffix in (('train', ''), ('validation', '_validation')):
    documents = [
      Document(id=f'{i}', text=sentence(rng, 9), source='web', split=split)
      for i in range(60 if split == 'train' else 12)
    ]
    made['corpus' + suffix] = tasks.document_rows(documents, tok, ROW_LEN)
    made['demonstrations' + suffix] = tasks.sft_rows(shown[split], tok, ROW_LEN)
  for name, packed in made.items():
    rows.write_rows(
      folder / f'{name}.rows',
      packed,
      source_fingerprint='toy',
      tokenizer_fingerprint=tok.fingerprint,
    )
  rankings = {
    'train': toy_rankings(prompts['train'], 'train', tok, rng),
    'validation': [
      *toy_rankings(prompts['validation'], 'train', tok, rng),
      *toy_rankings(prompts['validation'], 'heldout', tok, rng),
    ],
  }
  store.write_records(folder.parent / 'rankings', 'rankings', rankings)
  return tok


def save_run(folder: pathlib.Path, tok, params, **changes):
  """A finished run that exports `params`, as others see it."""
  meta = {
    'format_version': run.FORMAT_VERSION,
    'config': {},
    'tokenizer': tok.fingerprint,
    'export': ['params'],
    **changes,
  }
  with Checkpointer(folder / 'checkpoints') as saver:
    saver.save(1, {'params': jax.tree.map(jnp.asarray, params)}, meta)


@pytest.fixture(scope='session')
def study(tmp_path_factory) -> pathlib.Path:
  """The folder in which the toy stages lie. Only read it."""
  folder = tmp_path_factory.mktemp('study')
  tok = write_lab(folder / 'lab')
  model = build.make_model(stages.configs()['ppo'], tok.vocab_size)
  save_run(folder / 'pretrain', tok, tiny.params(model, std=0.05))
  save_run(folder / 'sft', tok, tiny.params(model, std=0.05))
  save_run(folder / 'ppo_init', tok, tiny.params(model, std=0.05))
  save_run(
    folder / 'reward',
    tok,
    tiny.scalar_params(model, std=0.05),
    config=stages.configs()['reward'].to_dict(),
  )
  return folder


@pytest.fixture(scope='session')
def tok(study) -> Tokenizer:
  return Tokenizer.load(study / 'lab' / Tokenizer.FILE)


@pytest.fixture
def configs():
  """Fresh small configs by stage; inputs are found beside the run folder."""
  return stages.configs()


@pytest.fixture
def workdir(study, tmp_path) -> pathlib.Path:
  """A run folder beside links to the toy stages."""
  for name in ('lab', 'rankings', 'pretrain', 'sft', 'ppo_init', 'reward'):
    (tmp_path / name).symlink_to(study / name)
  return tmp_path / 'run'


@pytest.fixture
def nothing_ahead(monkeypatch):
  """PPO compiles nothing before its loop, for tests that replace the loop."""
  nothing = lambda *_: contextlib.nullcontext()
  monkeypatch.setattr(ahead, 'compiling', nothing)


@pytest.fixture
def one_device(monkeypatch):
  """Runs are on a mesh of one device, whatever there is."""
  whole = sharding.make_mesh
  monkeypatch.setattr(
    sharding, 'make_mesh', lambda shape: whole(shape, jax.devices()[:1])
  )
