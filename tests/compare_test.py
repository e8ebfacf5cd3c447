"""scripts/compare.py: what it reads, and the table it prints."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

from instructrl.runtime import manifest

PATH = pathlib.Path(__file__).resolve().parent.parent / 'scripts' / 'compare.py'
spec = importlib.util.spec_from_file_location('compare', PATH)
compare = importlib.util.module_from_spec(spec)
spec.loader.exec_module(compare)

RESULTS = {
  'format_version': 1,
  'preference': {'sft': {'win_rate': 0.5, 'ci95': [0.4, 0.6], 'n': 9}},
  'alignment_tax': {'ppo': {'nll': 1.25, 'facts': 1.0}},
  'ci95': {'alignment_tax': {'ppo': {'nll': [1.2, 1.3]}}},
  'n': {'alignment_tax': {'ppo': {'nll': 40}}},
}


def write(folder, results):
  (folder / 'report').mkdir(parents=True)
  (folder / 'report' / 'results.json').write_text(json.dumps(results))
  manifest.write(folder / 'report')
  return str(folder)


def test_a_changed_number_is_refused(tmp_path, capsys):
  folder = write(tmp_path / 'a', RESULTS)
  path = tmp_path / 'a' / 'report' / 'results.json'
  path.write_text(path.read_text().replace('0.5', '0.7'))
  assert compare.main([folder]) == 1
  assert 'results.json is not what was written' in capsys.readouterr().err


def test_pooled_numbers_are_those_of_the_page(tmp_path, capsys):
  pooled = {'preference': {'sft': {'win_rate': 0.5, 'ci95': [0.4, 0.6]}}}
  (tmp_path / 'results.json').write_text(json.dumps({'pooled': pooled}))
  assert compare.main([str(tmp_path)]) == 0
  assert '| preference.sft.win_rate | 0.5 [0.4, 0.6] |' in (
    capsys.readouterr().out
  )


def test_studies_stand_side_by_side(tmp_path, capsys, monkeypatch):
  other = {'preference': {'sft': {'win_rate': 0.123456, 'ci95': [0.1, 0.2]}}}
  monkeypatch.chdir(tmp_path)
  write(tmp_path / 'a', RESULTS)
  write(tmp_path / 'b', other)
  folders = ['a', 'b/']
  assert (
    compare.main(
      [*folders, '--numbers', 'preference.*.win_rate', 'alignment_tax.*.*']
    )
    == 0
  )
  assert capsys.readouterr().out.splitlines() == [
    '| number | a | b |',
    '|---|---|---|',
    '| preference.sft.win_rate | 0.5 [0.4, 0.6] | 0.123 [0.1, 0.2] |',
    '| alignment_tax.ppo.nll | 1.25 [1.2, 1.3] |  |',
    '| alignment_tax.ppo.facts | 1 |  |',
  ]


def test_a_pattern_that_names_nothing_is_an_error(tmp_path, capsys):
  folder = write(tmp_path / 'a', RESULTS)
  assert compare.main([folder, '--numbers', 'nothing.*']) == 1
  assert capsys.readouterr().err == "error: no number is named 'nothing.*'\n"


def test_the_numbers_that_there_are_without_a_pattern(tmp_path, capsys):
  folder = write(tmp_path / 'a', RESULTS)
  assert compare.main([folder]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert [line.split()[1] for line in lines[2:]] == [
    'preference.sft.win_rate',
    'alignment_tax.ppo.nll',
    'alignment_tax.ppo.facts',
  ]


def test_a_folder_without_an_evaluation_is_named(tmp_path, capsys):
  assert compare.main([str(tmp_path)]) == 1
  error = capsys.readouterr().err
  assert f'{tmp_path} is not a study folder, nor a run of evaluation' in error
  assert error.count('\n') == 1


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
  read, written = os.pipe()
  os.close(read)
  found = subprocess.run(
    [sys.executable, str(PATH), write(tmp_path / 'a', RESULTS)]
    + ['--numbers', 'preference.*.win_rate'],
    env={**os.environ, 'PYTHONPATH': str(PATH.parent.parent)},
    stdout=written,
    stderr=subprocess.PIPE,
    text=True,
    check=False,
  )
  os.close(written)
  assert (found.returncode, found.stderr) == (0, '')
