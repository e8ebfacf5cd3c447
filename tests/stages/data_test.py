"""The data stage: from files to what the trainers read, whatever is missing."""

import itertools
import json
import pathlib
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import tokenizers

from experiments import data as data_config
from instructrl.data import store
from instructrl.data import tasks
from instructrl.data.records import fold
from instructrl.data.rows import read_rows
from instructrl.data.sources.lookup import load
from instructrl.evaluators import ranking_accuracy
from instructrl.runtime import origins
from instructrl.stages import build
from instructrl.stages import checks
from instructrl.stages import data
from instructrl.stages import data_sources
from instructrl.stages import opening
from instructrl.stages import ranking_batches
from instructrl.stages import reward
from instructrl.stages import runner
from instructrl.stages import scoring
from instructrl.stages.inputs import exported
from instructrl.tokenizers import loading
from instructrl.tokenizers import trained
from instructrl.tokenizers.imported import HFTokenizer
from tests.stages import conftest
from tests.stages import stages

WORDS = ('red', 'green', 'blue', 'cat', 'dog', 'fish')
ROW_LEN = 16
SETS = ('prompts', 'demonstrations', 'rankings', 'corpus')


def sentence(rng, longest):
  return ' '.join(rng.choice(WORDS, rng.integers(1, longest + 1)))


def ask(i):
  """A prompt of its own for each number."""
  first, second = divmod(i, len(WORDS))
  return f'say {WORDS[second]} {"cat " * first}'.strip()


def write_lines(path, lines):
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  return f'jsonl:{path}'


def sources(folder: pathlib.Path, count=24) -> dict[str, tuple[str, ...]]:
  """Part -> specs of small files."""
  rng = np.random.default_rng(0)
  folder.mkdir(exist_ok=True)

  def ranking(i):
    texts = [sentence(rng, 4) for _ in range(rng.integers(2, 5))]
    return {
      'prompt': ask(i),
      'responses': texts,
      'scores': [text.split().count('red') for text in texts],
    }

  return {
    'demonstrations': (
      write_lines(
        folder / 'shown.jsonl',
        [
          {'prompt': ask(i), 'response': sentence(rng, 4)} for i in range(count)
        ],
      ),
    ),
    'rankings': (
      write_lines(
        folder / 'ranked.jsonl',
        [ranking(i) for i in range(count // 2, 2 * count)],
      ),
    ),
    'documents': (
      write_lines(
        folder / 'pages.jsonl',
        [{'text': f'{i} {sentence(rng, 9)}'} for i in range(60)],
      ),
    ),
  }


@pytest.fixture(scope='module', name='files')
def _files(tmp_path_factory):
  return sources(tmp_path_factory.mktemp('files'))


def make_config(specs, **changes):
  config = data_config.get_config('micro')
  for part in data.PARTS:
    config[part] = specs.get(part, ())
  config.tokenizer.update(vocab_size=300, model_type='word')
  config.update(
    prompt_len=14, response_len=6, row_len=ROW_LEN, validation_fraction=0.2
  )
  config.update(changes)
  return config


def read(folder, name):
  return {
    split: list(store.read_records(folder, name, split))
    for split in store.splits(folder, name)
  }


def texts(folder, name, split):
  return {
    fold(getattr(r, 'prompt', r).text)
    for r in store.read_records(folder, name, split)
  }


def fingerprints(folder):
  found = {
    name: store.dataset_fingerprint(folder, name)
    for name in SETS
    if (folder / name).exists()
  }
  return (
    found
    | {path.name: path.read_bytes() for path in sorted(folder.glob('*.rows'))}
    | {
      name: (folder / name).read_text()
      for name in ('summary.json', 'summary.txt')
    }
    | {'tokenizer': loading.load(folder).fingerprint}
  )


def columns(folder):
  return [path.read_bytes() for path in sorted(folder.rglob('*.columns'))]


@pytest.fixture(scope='module', name='made')
def _made(files, tmp_path_factory):
  """(folder, result) of the stage. Only read it."""
  folder = tmp_path_factory.mktemp('study') / 'data'
  return folder, runner.run_stage(make_config(files), folder)['result']


# --- What is written ---------------------------------------------------------


def test_the_folder_has_what_a_lab_has_and_rankings(made):
  folder, result = made
  assert {name: set(store.splits(folder, name)) for name in SETS} == {
    'prompts': {'train', 'ppo', 'validation'},
    'demonstrations': {'train', 'validation'},
    'rankings': {'train', 'validation'},
    'corpus': {'train', 'validation'},
  }
  assert result['splits'] == {name: store.splits(folder, name) for name in SETS}
  tok = loading.load(folder)
  for name in ('corpus', 'demonstrations'):
    for suffix in ('', '_validation'):
      rows = read_rows(
        folder / f'{name}{suffix}.rows',
        row_len=ROW_LEN,
        tokenizer_fingerprint=tok.fingerprint,
        source_fingerprint=result['fingerprint'],
      )
      assert len(rows) == result['rows'][f'{name}{suffix}.rows'] > 0
  summary = json.loads((folder / 'summary.json').read_text())
  assert summary['made']['splits'] == result['splits']
  assert 'what was made of them' in (folder / 'summary.txt').read_text()


def test_rankings_have_the_tokens_of_their_texts(made):
  folder, _ = made
  tok = loading.load(folder)
  seen = 0
  for ranking in itertools.chain(*read(folder, 'rankings').values()):
    for text, tokens in zip(
      ranking.responses, ranking.response_tokens, strict=True
    ):
      assert list(tokens) == tasks.response_tokens(tok, text, 6)
      assert tokens[-1] == tok.eos_id
      seen += 1
  assert seen > 60


def test_no_prompt_is_trained_on_and_held_out(made):
  """Half the demonstrated prompts are ranked too: each is on one side."""
  folder, _ = made
  parts = ('prompts', 'demonstrations', 'rankings')
  train = set().union(
    *(texts(folder, n, 'train') for n in parts), texts(folder, 'prompts', 'ppo')
  )
  held = set().union(*(texts(folder, n, 'validation') for n in parts))
  assert train and held and not train & held
  assert held == texts(folder, 'prompts', 'validation')
  both = texts(folder, 'demonstrations', 'validation') & texts(
    folder, 'rankings', 'validation'
  )
  assert both  # or nothing would be shown


@pytest.mark.parametrize(
  'own, named',
  [('7', '7'), ('http://a.org/7', 'http:%2F%2Fa.org%2F7'), ('7/', '7%2F')],
)
def test_an_id_tells_its_data_set(tmp_path, own, named):
  spec = write_lines(
    tmp_path / 'mine.jsonl',
    [{'id': own, 'prompt': 'Why?', 'chosen': 'a', 'rejected': 'b'}],
  )
  (record,) = data_sources.named(load(spec)).records
  assert record.prompt.id == f'jsonl/mine/{named}'
  assert ranking_accuracy.data_set(record) == 'jsonl/mine'


def test_ppo_sees_the_ranked_prompts_or_those_set_aside(files, made, tmp_path):
  folder, _ = made
  assert texts(folder, 'prompts', 'ppo') >= texts(folder, 'rankings', 'train')
  config = make_config(files, ppo_fraction=0.3)
  runner.run_stage(config, tmp_path / 'data')
  ppo_only = texts(tmp_path / 'data', 'prompts', 'ppo')
  assert 3 <= len(ppo_only) <= 12
  for name in ('rankings', 'demonstrations', 'prompts'):
    assert not ppo_only & texts(tmp_path / 'data', name, 'train')


@pytest.mark.slow  # each worker imports the package
@pytest.mark.parametrize('workers', [2, 3])
def test_any_number_of_workers_writes_the_same(files, made, tmp_path, workers):
  result = runner.run_stage(make_config(files, workers=workers), tmp_path / 'd')
  assert result['result'] == made[1]
  assert fingerprints(tmp_path / 'd') == fingerprints(made[0])
  assert columns(tmp_path / 'd') == columns(made[0])
  assert not list((tmp_path / 'd').glob('*.partial'))


def test_a_part_that_no_source_gives_is_left_out(files, tmp_path):
  config = make_config({'rankings': files['rankings']})
  result = runner.run_stage(config, tmp_path / 'data')['result']
  assert set(result['splits']) == {'prompts', 'rankings'}
  assert result['rows'] == {}
  assert not list((tmp_path / 'data').glob('*.rows'))


def test_the_same_config_gives_the_same_and_another_seed_another_split(
  files, made, tmp_path
):
  folder, _ = made
  again, other = tmp_path / 'again', tmp_path / 'other'
  runner.run_stage(make_config(files, train_seed=5), again)
  runner.run_stage(make_config(files, world_seed=1), other)
  for name in SETS:  # the config is part of what rows are made from
    of = lambda f: store.dataset_fingerprint(f, name)
    assert of(again) == of(folder) != of(other)
  assert (again / 'summary.txt').read_text() == (
    folder / 'summary.txt'
  ).read_text()
  assert texts(other, 'rankings', 'validation') != texts(
    folder, 'rankings', 'validation'
  )


def test_an_imported_tokenizer_with_a_template(files, tmp_path):
  """It is what the rows are made with, and the folder has a copy."""
  source = write_hf_tokenizer(tmp_path / 'hf')
  imported = HFTokenizer.from_folder(source)
  (tmp_path / 'import').mkdir()
  imported.save(tmp_path / 'import' / imported.FILE)
  config = make_config(
    files,
    prompt_template='Q: {prompt}\\nA:',
    prompt_len=40,
    response_len=40,
    row_len=80,
  )
  config.inputs.tokenizer = '../import'
  workdir = tmp_path / 'data'
  result = runner.run_stage(config, workdir)['result']
  tok = loading.load(workdir)
  assert tok.fingerprint != imported.fingerprint
  assert tok.decode(tok.prompt('say')) == 'Q: say\nA:'
  assert result['vocab_size'] == tok.vocab_size
  read_rows(workdir / 'corpus.rows', tokenizer_fingerprint=tok.fingerprint)
  ranking = store.read_records(workdir, 'rankings', 'train')[0]
  assert tok.decode(ranking.response_tokens[0]).strip() == ranking.responses[0]
  rows = tmp_path / 'dialogues.jsonl'
  rows.write_text(
    ''.join(
      json.dumps(
        {
          'prompt': [
            {'role': role, 'content': f'say red {i}'}
            for role in ('user', 'assistant', 'user')
          ]
        }
      )
      + '\n'
      for i in range(9)
    )
  )
  config.prompts = (f'jsonl:{rows}',)
  config.prompt_len = config.row_len = 99
  runner.run_stage(config, tmp_path / 'dialogues')
  assert (
    'dialogues are laid out as one text'
    in (tmp_path / 'dialogues' / 'summary.txt').read_text()
  )
  assert 'dialogues are laid' not in (workdir / 'summary.txt').read_text()
  config.prompt_template = 'no placeholder'
  with pytest.raises(checks.ConfigError, match='prompt_template: .*{prompt}'):
    runner.run_stage(config, tmp_path / 'other')


def write_hf_tokenizer(folder):
  """A byte-level tokenizer in the files of transformers."""
  folder.mkdir()
  tok = tokenizers.Tokenizer(tokenizers.models.BPE())
  tok.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
    add_prefix_space=False
  )
  tok.decoder = tokenizers.decoders.ByteLevel()
  tok.train_from_iterator(
    ['say red green blue cat dog fish'] * 9,
    tokenizers.trainers.BpeTrainer(
      vocab_size=300,
      special_tokens=['<|pad|>', '<|end|>'],
      initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
    ),
  )
  tok.save(str(folder / 'tokenizer.json'))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps(
      {
        'eos_token': '<|end|>',
        'pad_token': '<|pad|>',
        'tokenizer_class': 'PreTrainedTokenizerFast',
      }
    )
  )
  return folder


def test_own_data_with_a_tokenizer_of_their_own(tmp_path, capsys):
  """Text and JSON lines are enough; a part that loses most rows is shown."""
  (tmp_path / 'pages.txt').write_text(
    '\n\n'.join(f'page {i} of red cats' for i in range(40))
  )
  shown = [{'prompt': ask(i), 'response': 'red ' * 3} for i in range(12)]
  ranked = [
    {'prompt': ask(i), 'responses': ['red', 'a cat'], 'scores': [1, 0]}
    for i in range(12)
  ]
  long = [{'prompt': f'{"cat " * 40}{i}', 'response': 'red'} for i in range(14)]
  rows = write_lines(tmp_path / 'shown.jsonl', [*shown, *long, shown[0]])
  config = make_config(
    {
      'documents': (f'text:{tmp_path / "pages.txt"}',),
      'demonstrations': (rows,),
      'rankings': (write_lines(tmp_path / 'ranked.jsonl', ranked),),
    },
    prompt_len=20,
    row_len=32,
  )
  config.tokenizer.update(vocab_size=8192, model_type='bpe')
  result = runner.run_stage(config, tmp_path / 'data')['result']
  warning = (
    'demonstrations: 15 of 27 rows were dropped (1 is an exact duplicate of an '
    'earlier row; 14 prompt has more than 20 tokens)'
  )
  assert result['warnings'] == [warning]
  assert f'WARNING: {warning}' in capsys.readouterr().out
  summary = json.loads((tmp_path / 'data' / 'summary.json').read_text())
  assert summary['made']['warnings'] == [warning]
  text = (tmp_path / 'data' / 'summary.txt').read_text()
  assert 'WARNING       demonstrations: 15 of 27' in text
  tok = loading.load(tmp_path / 'data')
  assert isinstance(tok, trained.Tokenizer) and tok.vocab_size < 8192
  assert result['rows'].keys() == {
    f'{name}{suffix}.rows'
    for name in ('corpus', 'demonstrations')
    for suffix in ('', '_validation')
  }


@pytest.mark.parametrize('better', [1, 0])
def test_a_preference_for_cut_responses_is_warned_of(tmp_path, better):
  """The long response of each ranking is better, or that of every second is."""
  ranked = [
    {
      'prompt': ask(i),
      'responses': ['red ' * 9, 'a cat'],
      'scores': [better or i % 2, 0.5],
    }
    for i in range(24)
  ]
  rows = write_lines(tmp_path / 'ranked.jsonl', ranked)
  config = make_config({'rankings': (rows,)}, long_responses='cut')
  result = runner.run_stage(config, tmp_path / 'data')['result']
  warned = 'truncation correlates with preference' in str(
    result.get('warnings', '')
  )
  assert warned == better


# --- Interruptions -----------------------------------------------------------


def test_what_is_finished_is_not_made_again(files, made, tmp_path, monkeypatch):
  config = make_config(files)
  whole = made[0]

  def fail(*args, **kwargs):
    raise RuntimeError('killed')

  workdir = tmp_path / 'data'
  monkeypatch.setattr(tasks, 'sft_examples', fail)
  with pytest.raises(RuntimeError):
    data.run(config, workdir)
  monkeypatch.undo()
  kept = {
    path: path.stat().st_mtime_ns
    for path in (
      *workdir.rglob('*.array_record*'),
      workdir / 'tokenizer.model',
      workdir / 'corpus.rows',
    )
  }
  assert len(kept) > 6
  data.run(config, workdir)
  assert {path: path.stat().st_mtime_ns for path in kept} == kept
  assert fingerprints(workdir).keys() == fingerprints(whole).keys()
  same = fingerprints(workdir)
  assert same == fingerprints(whole)


@pytest.mark.slow
@pytest.mark.parametrize('workers', [1, 2])
def test_a_killed_stage_started_again_ends_with_the_same(
  files, made, tmp_path, workers
):
  workdir = tmp_path / 'data'
  flags = [
    f'--config.{part}={tuple(files.get(part, ()))!r}' for part in data.PARTS
  ]
  command = [
    sys.executable,
    '-m',
    'instructrl.main',
    f'--workdir={workdir}',
    '--config=experiments/data.py:micro',
    '--config.tokenizer.vocab_size=300',
    '--config.prompt_len=14',
    '--config.response_len=6',
    '--config.tokenizer.model_type=word',
    f'--config.row_len={ROW_LEN}',
    '--config.validation_fraction=0.2',
    f'--config.workers={workers}',
    *flags,
  ]
  root = pathlib.Path(__file__).resolve().parents[2]
  for wait in ('tokenizer.model', 'rankings', 'corpus.rows'):
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL)
    while not (workdir / wait).exists() and process.poll() is None:
      time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
  assert not (workdir / 'DONE').exists()
  subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)
  assert fingerprints(workdir) == fingerprints(made[0])
  assert (
    json.loads((workdir / 'DONE').read_text())['result']
    == json.loads((made[0] / 'DONE').read_text())['result']
  )


def test_files_that_changed_since_the_stage_began_are_refused(
  tmp_path, monkeypatch
):
  specs = sources(tmp_path / 'files')
  config, workdir = make_config(specs), tmp_path / 'data'
  monkeypatch.setattr(data, 'write', lambda *args: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    data.run(config, workdir)
  monkeypatch.undo()
  path = pathlib.Path(specs['rankings'][0].partition(':')[2])
  path.write_text(
    path.read_text()
    + json.dumps({'prompt': 'say more', 'chosen': 'red', 'rejected': 'cat'})
    + '\n'
  )
  with pytest.raises(ValueError, match='was made from other sources'):
    data.run(config, workdir)


def test_what_a_stage_was_made_from_includes_its_sources(made, tmp_path):
  """So that no other can be exchanged for it below a trained model."""
  folder, _ = made
  before = origins.identity(folder)
  inputs = json.loads((folder / 'inputs.json').read_text())
  assert len(inputs['identities']['sources']) == 64
  copy = tmp_path / 'data'
  copy.mkdir()
  (copy / 'config.json').write_bytes((folder / 'config.json').read_bytes())
  (copy / 'inputs.json').write_text(json.dumps({'sources': 'others'}))
  assert origins.identity(copy) != before


# --- Refusals ----------------------------------------------------------------


@pytest.mark.parametrize(
  'field, value, message',
  [
    ('rankings', ('jsnl:x.jsonl',), "rankings: .*did you mean 'jsonl'"),
    (
      'rankings',
      ('jsonl:a', 'jsonl:b', 'jsonl:a'),
      'rankings names jsonl:a twice',
    ),
    ('rankings', (3,), 'is not a tuple of source specs'),
    ('row_len', 4, 'row_len=4 is less than prompt_len=14'),
    ('prompt_len', 0, 'prompt_len must be at least 1; got 0'),
    ('max_responses', 1, 'max_responses must be at least 2; got 1'),
    (
      'validation_fraction',
      1.0,
      'validation_fraction must be at least 0 and less than 1; got 1.0',
    ),
    ('ppo_fraction', -0.1, 'ppo_fraction must be .*; got -0.1'),
    ('dedup_prefix', -1, 'dedup_prefix must be at least 0; got -1'),
    ('split_by', 'row', "split_by must be one of user, prompt; got 'row'"),
    ('pii', 'hide', "pii must be one of keep, drop; got 'hide'"),
    (
      'long_responses',
      'keep',
      "long_responses must be one of drop, cut; got 'keep'",
    ),
    ('prompt_template', 'chat', 'prompt_template needs an imported tokenizer'),
    (
      'tokenizer.vocab_size',
      0,
      'tokenizer.vocab_size must be at least 1; got 0',
    ),
    (
      'tokenizer.model_type',
      'wp',
      "tokenizer.model_type must be one of .*; got 'wp'",
    ),
  ],
)
def test_configs_that_make_no_sense_are_refused_by_name(
  files, field, value, message
):
  config = make_config(files)
  config.update_from_flattened_dict({field: value})
  with pytest.raises(checks.ConfigError, match=message):
    data.validate(config)


def test_no_source_at_all_is_refused():
  with pytest.raises(checks.ConfigError, match='there is no source: set one'):
    data.validate(make_config({}))


@pytest.mark.parametrize(
  'change, message',
  [
    (
      dict(documents='rankings'),
      'has records of the type Ranking; it belongs to rankings',
    ),
    (dict(rankings='documents'), 'Document; it belongs to documents'),
  ],
)
def test_a_source_for_the_wrong_part_is_refused(
  files, tmp_path, change, message
):
  ((part, other),) = change.items()
  with pytest.raises(ValueError, match=message):
    data.run(make_config({part: files[other]}), tmp_path / 'data')


def test_a_part_of_which_nothing_is_left_is_refused(files, tmp_path):
  with pytest.raises(
    checks.ConfigError,
    match='demonstrations: no row of '
    r'jsonl.* is left \(24 prompt has more than 2 tokens\)',
  ):
    data.run(make_config(files, prompt_len=2), tmp_path / 'data')
  assert not list((tmp_path / 'data').glob('*.rows'))


def test_a_missing_file_is_refused_before_another_is_read(
  files, tmp_path, monkeypatch
):
  monkeypatch.setattr(data_sources, 'load', lambda *args, **kwargs: 1 / 0)
  config = make_config({**files, 'prompts': (f'jsonl:{tmp_path}/none.jsonl',)})
  with pytest.raises(checks.ConfigError, match='there is no .*none.jsonl'):
    data.run(config, tmp_path / 'data')


@pytest.mark.parametrize(
  'change',
  [{'prompt_len': 2}, {'documents': 'rankings'}, {'tokenizer.vocab_size': 20}],
)
def test_what_was_refused_leaves_room_for_another_config(
  files, made, tmp_path, change
):
  """Nor does a tokenizer or a data set of the wrong config stay behind."""
  workdir = tmp_path / 'data'
  config = make_config(files)
  for field, value in change.items():
    config.update_from_flattened_dict({field: files.get(value, value)})
  with pytest.raises(checks.ConfigError):
    runner.run_stage(config, workdir)
  assert {p.name for p in workdir.iterdir()} <= {'lock', 'seconds'}
  runner.run_stage(make_config(files), workdir)
  assert fingerprints(workdir) == fingerprints(made[0])


# --- The trainers on it ------------------------------------------------------


@pytest.fixture(name='run_stage')
def _run_stage(tmp_path, one_device):
  """(stage, data folder, changes) -> result; models lie beside each other."""

  def run(stage, folder, **changes):
    config = stages.configs()[stage]
    for field, value in {
      'inputs.data': str(folder),
      'eval_every': 1,
      **changes,
    }.items():
      config.update_from_flattened_dict({field: value})
    for name in ('model', 'reward_model'):
      if name in config:
        config[name].max_len = 32
    if stage == 'reward':
      config.inputs.rankings = str(folder)
      config.update(prompt_len=14, response_len=6)
    if 'ppo' in config:
      config.ppo.update(
        prompt_len=14, response_len=6, num_iterations=1, ema_decay=0.0
      )
    return runner.run_stage(config, tmp_path / stage)['result']

  return run


@pytest.mark.slow
def test_every_trainer_runs_on_it(made, run_stage):
  """From a fresh model to PPO-ptx: nothing of a lab is needed."""
  folder, _ = made
  sft = run_stage(
    'sft', folder, **{'inputs.init': '', 'num_epochs': 0, 'num_steps': 2}
  )
  assert sft['num_steps'] == 2 and sft['loss/validation'] > 0
  assert sft['pretrain/nll'] > 0
  run_stage(
    'ppo_init',
    folder,
    **{'inputs.init': '../sft', 'num_epochs': 0, 'num_steps': 1},
  )
  rm = run_stage('reward', folder, num_epochs=1)
  assert set(rm['accuracy']) == {'in_group'}
  assert rm['bias_from'] == 'demonstrations'
  done = run_stage('ppo_ptx', folder)
  assert done['num_iterations'] == 1 and done['pretrain/nll'] > 0
  assert done['prompts'] == store.splits(folder, 'prompts')['ppo']


@pytest.mark.slow
def test_a_reward_model_and_ppo_from_rankings_alone(
  files, run_stage, tmp_path, capsys
):
  """No demonstrations, no corpus, no held-out labelers; and it says so."""
  folder = tmp_path / 'data'
  runner.run_stage(make_config({'rankings': files['rankings']}), folder)
  tok = loading.load(folder)
  rm = run_stage('reward', folder, **{'inputs.init': '', 'num_epochs': 1})
  assert rm['bias_from'] == 'best-ranked responses'
  out = capsys.readouterr().out
  assert 'no labelers are held out: accuracy is that on the training' in out
  elements, _ = ranking_batches.load_rankings(
    _opened(folder), tok, 'train', 'train'
  )
  params, meta = exported(tmp_path / 'reward')
  assert meta['tokenizer'] == tok.fingerprint
  config = opening.run_config(tmp_path / 'reward')
  scorer = scoring.Scorer(build.make_model(config, tok.vocab_size), tok)
  assert reward.best_mean(
    elements, scorer, params, tok.eos_id
  ) == pytest.approx(0, abs=1e-5)
  backbone = tmp_path / 'policy'
  conftest.save_run(backbone, tok, params['backbone'], config=config.to_dict())
  done = run_stage('ppo', folder, **{'inputs.policy': '../policy'})
  assert done['num_iterations'] == 1 and 'pretrain/nll' not in done
  assert 'pretrain/nll is not measured' in capsys.readouterr().out


def _opened(folder):
  config = stages.configs()['reward']
  config.update(prompt_len=14, response_len=6)
  return types.SimpleNamespace(config=config, input=lambda name: folder)


@pytest.mark.slow
def test_sft_on_demonstrations_alone(files, run_stage, tmp_path):
  """Nothing is held out, and there is no corpus: each has a field to set."""
  folder = tmp_path / 'data'
  runner.run_stage(
    make_config(
      {'demonstrations': files['demonstrations']}, validation_fraction=0.0
    ),
    folder,
  )
  assert {p.name for p in folder.glob('*.rows')} == {'demonstrations.rows'}
  fields = {'inputs.init': '', 'num_epochs': 0, 'num_steps': 1}
  with pytest.raises(
    checks.ConfigError,
    match='has no demonstrations_validatio'
    "n.rows: .*, or set validation_rows=''",
  ):
    run_stage('sft', folder, **fields)
  fields['validation_rows'] = ''
  with pytest.raises(
    checks.ConfigError, match="has no corpus.rows: .*, or set pretrain_rows=''"
  ):
    run_stage('sft', folder, **fields)
  fields['pretrain_rows'] = ''
  with pytest.raises(checks.ConfigError, match='pretrain_mix=0.5 needs pret'):
    run_stage('sft', folder, **fields, pretrain_mix=0.5)
  done = run_stage('sft', folder, **fields)
  assert done['num_steps'] == 1 and 'loss/validation' not in done


@pytest.mark.parametrize(
  'stage, changes, message',
  [
    (
      'sft',
      {},
      'has no demonstrations.rows: give the data stage a source for '
      'demonstrations, or set rows',
    ),
    (
      'pretrain',
      {},
      'has no corpus.rows: give the data stage a source for '
      'documents, or set rows',
    ),
    (
      'reward',
      {},
      r"inputs.rankings: .* has no rankings of the split 'train': "
      'give the data stage a source for rankings, or set inputs.rankings',
    ),
  ],
)
def test_a_trainer_says_what_is_missing(
  tmp_path, run_stage, stage, changes, message
):
  folder = tmp_path / 'data'
  specs = {
    'prompts': (
      write_lines(tmp_path / 'p.jsonl', [{'prompt': ask(i)} for i in range(8)]),
    )
  }
  config = make_config(specs)
  config.inputs.tokenizer = str(tmp_path / 'tok')
  (tmp_path / 'tok').mkdir()
  trained.Tokenizer(
    trained.train_tokenizer([ask(i) for i in range(40)], 300)
  ).save(tmp_path / 'tok' / 'tokenizer.model')
  runner.run_stage(config, folder)
  assert set(store.splits(folder, 'prompts')) == {'ppo', 'validation'}
  with pytest.raises(checks.ConfigError, match=message):
    run_stage(stage, folder, **{'inputs.init': '', **changes})
