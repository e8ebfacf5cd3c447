"""python -m instructrl.data: what it prints, and its one-line errors."""

import json
import pathlib
import subprocess
import sys

import pytest

from instructrl.data import __main__
from instructrl.tokenizers import trained

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(name='spec')
def _spec(tmp_path):
  path = tmp_path / 'ranked.jsonl'
  path.write_text(
    ''.join(
      json.dumps(
        {
          'prompt': f'ask {i}',
          'responses': ['red cat', 'blue', 'green'],
          'scores': [2, 1, 1],
        }
      )
      + '\n'
      for i in range(9)
    )
  )
  return f'jsonl:{path}'


@pytest.fixture(name='folder')
def _folder(tmp_path):
  tok = trained.Tokenizer(
    trained.train_tokenizer(['ask red cat blue green'] * 4, 290)
  )
  tok.save(tmp_path / tok.FILE)
  return str(tmp_path)


def run(capsys, *argv):
  status = __main__.main([*argv])
  out, err = capsys.readouterr()
  return status, out, err


def test_a_summary_and_examples(spec, capsys):
  status, out, err = run(capsys, spec, '--examples', '2')
  assert (status, err) == (0, '')
  assert 'rows          9 read, 9 kept, 0 dropped' in out
  assert 'pairs         27, 33.3% of them ties' in out
  assert out.count('── Ranking ') == 2 and out.count('rank 0') == 2
  assert 'tokens' not in out and '\x1b' not in out
  assert run(capsys, spec, '--examples', '2')[1] == out
  assert run(capsys, spec, '--examples', '0')[1].count('── Ranking ') == 0


def test_more_than_one_source_and_a_limit(spec, capsys):
  _, out, _ = run(capsys, spec, spec + '?tie_margin=5', '--limit', '4')
  assert out.count('rows          4 read, 4 kept') == 2
  assert '100.0% of them ties' in out


def test_json_is_for_programs(spec, capsys):
  status, out, _ = run(capsys, spec, spec, '--json')
  found = [json.loads(line) for line in out.splitlines()]
  assert status == 0 and len(found) == 2
  assert (found[0]['kind'], found[0]['k']) == ('Ranking', {'3': 9})


def test_lengths_in_tokens_with_a_tokenizer(spec, folder, capsys):
  status, out, _ = run(
    capsys,
    spec,
    '--tokenizer',
    folder,
    '--json',
    '--prompt_len',
    '3',
    '--response_len',
    '2',
  )
  (found,) = [json.loads(line) for line in out.splitlines()]
  assert status == 0 and found['over']['prompt'] == {'limit': 3, 'count': 9}
  assert 'response tokens' in found['lengths']


@pytest.mark.parametrize(
  'argv, message',
  [
    (['jsnl:x'], "names no known source (did you mean 'jsonl'?)"),
    (['jsonl:nowhere.jsonl'], 'nowhere.jsonl'),
    (['{spec}', '--tokenizer', 'nowhere'], 'nowhere'),
    (
      ['{spec}', '--tokenizer', '{folder}', '--prompt_template', '{{prompt}}'],
      'has a fixed layout',
    ),
  ],
)
def test_mistakes_are_one_line(spec, folder, capsys, argv, message):
  argv = [word.format(spec=spec, folder=folder) for word in argv]
  status, out, err = run(capsys, *argv)
  assert (status, out) == (1, '')
  assert err.startswith('error: ') and message in err and err.count('\n') == 1


def test_a_mistake_in_the_last_source_is_told_first(spec, capsys):
  status, out, _ = run(capsys, spec, 'jsnl:x')
  assert (status, out) == (1, '')


@pytest.mark.parametrize(
  'argv, message',
  [
    (['--limit', '-1'], 'must be 0 or more'),
    (['--prompt_len', '0'], 'must be 1 or more'),
    (['--prompt_template', 'chat'], '--prompt_template needs --tokenizer'),
  ],
)
def test_flags_that_make_no_sense(spec, capsys, argv, message):
  with pytest.raises(SystemExit) as stop:
    run(capsys, spec, *argv)
  assert stop.value.code == 2 and message in capsys.readouterr().err


def test_help_lists_the_sources(capsys):
  with pytest.raises(SystemExit) as stop:
    run(capsys, '--sources')
  out = capsys.readouterr().out
  assert stop.value.code == 0
  assert 'hh-rlhf  ' in out and 'jsonl:PATH  ' in out and 'tie_margin' in out


def test_a_reader_that_has_seen_enough(spec):
  process = subprocess.Popen(
    [sys.executable, '-m', 'instructrl.data', *[spec] * 60, '--examples', '9'],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )
  process.stdout.readline()
  process.stdout.close()
  assert process.wait(120) == 0
  assert process.stderr.read() == b''
