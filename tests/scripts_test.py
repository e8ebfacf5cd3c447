"""The scripts that make the environment, with a Python that installs nothing.

The fake notes every call in `calls.log`, makes "environments" that are copies
of itself, and fails where the environment variable FAIL says so.
"""

import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent

FAKE_PYTHON = f"""#!/usr/bin/env bash
echo "$*" >> "$CALLS"
case "$*" in
  --version) echo 'Python 3.11.0' ;;
  *default_backend*) echo "${{BACKEND:-cpu}}" ;;
  -c*) exit "${{OLD_PYTHON:-0}}" ;;
  "- "*) exec {shlex.quote(sys.executable)} "$@" ;;
  "-m venv --without-pip "*|"-m venv "*)
    [ "$FAIL" = venv ] && exit 1
    venv="${{@: -1}}"
    mkdir -p "$venv/bin"
    cp "$0" "$venv/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install"*)
    [ "$FAIL" = pip ] && {{ echo 'ERROR: no such thing'; exit 1; }}
    [ "$FAIL" = kill ] && kill -9 "$PPID"
    exit 0 ;;
  "-m instructrl.study"*)
    [ "$FAIL" = study ] && exit 7
    [ "$FAIL" = slow ] && {{ echo "$$" >> "$CALLS"; exec sleep 60; }}
    echo "study in $PWD" ;;
  "-m instructrl.sample"*) echo 'List three animals.' ;;
  "-m ruff"*|"-m mypy"*) [ "$FAIL" = "$2" ] && exit 5 ; exit 0 ;;
  "-m pytest"*) echo "tests in $PWD" ;;
  *) echo "not expected: $*" >&2; exit 99 ;;
esac
"""


@pytest.fixture
def checkout(tmp_path):
  """A checkout, with a space in its path, of the scripts and the pins."""
  root = tmp_path / 'my checkout'
  shutil.copytree(ROOT / 'scripts', root / 'scripts')
  shutil.copy(ROOT / 'setup.py', root)
  (tmp_path / 'bin').mkdir()
  (tmp_path / 'elsewhere').mkdir()
  write_program(tmp_path / 'bin' / 'fakepython', FAKE_PYTHON)
  return root


def write_program(path, text):
  path.write_text(text)
  path.chmod(0o755)


def start(checkout, script, *args, fail='', **variables):
  """Starts a script of the checkout in another folder, without a terminal."""
  tmp_path = checkout.parent
  path = f'{tmp_path / "bin"}:{os.environ["PATH"]}'
  environment = {
    'PATH': path,
    'HOME': str(tmp_path),
    'PYTHON': 'fakepython',
    'CALLS': str(tmp_path / 'calls.log'),
    'FAIL': fail,
    **variables,
  }
  (tmp_path / 'calls.log').write_text('')
  # A job in the background ignores SIGINT, which its children would inherit.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  return subprocess.Popen(
    ['bash', str(checkout / 'scripts' / script), *args],
    cwd=tmp_path / 'elsewhere',
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


def run(checkout, script, *args, **settings):
  process = start(checkout, script, *args, **settings)
  stdout, stderr = process.communicate(timeout=60)
  return subprocess.CompletedProcess(
    process.args, process.returncode, stdout, stderr
  )


def calls(checkout, start=''):
  lines = (checkout.parent / 'calls.log').read_text().splitlines()
  return [line for line in lines if line.startswith(start)]


def check_one_clear_line(result, *words):
  assert result.returncode != 0
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1, result.stderr
  for word in words:
    assert word in lines[0]


def test_quickstart_installs_once_and_runs_the_study(checkout):
  write_program(checkout.parent / 'bin' / 'nproc', '#!/bin/sh\necho 2\n')
  first = run(checkout, 'quickstart.sh')
  assert first.returncode == 0, first.stderr
  assert len(calls(checkout, '-m pip install')) == 1
  workdir = checkout / 'runs' / 'quickstart'
  assert calls(checkout, '-m instructrl.study') == [
    f'-m instructrl.study --parallel=2 --config=experiments/study.py:tiny '
    f'--workdir={workdir}'
  ]
  assert f'study in {checkout}' in first.stdout
  assert calls(checkout, '-m instructrl.sample') == [
    f'-m instructrl.sample {workdir}/ppo_ptx --examples'
  ]
  assert 'knows:\nList three animals.\n' in first.stdout
  assert first.stdout.count('  python -m instructrl.') == 3
  second = run(checkout, 'quickstart.sh')
  assert second.returncode == 0
  assert not calls(checkout, '-m pip install')
  assert len(calls(checkout, '-m instructrl.study')) == 1


@pytest.mark.parametrize(
  'cores, backend, parallel', [(4, 'cpu', 2), (1, 'cpu', 1), (4, 'gpu', 1)]
)
def test_two_stages_at_a_time_on_a_cpu_only(checkout, cores, backend, parallel):
  bin_folder = checkout.parent / 'bin'
  write_program(bin_folder / 'nproc', f'#!/bin/sh\necho {cores}\n')
  run(checkout, 'quickstart.sh', BACKEND=backend)
  (study,) = calls(checkout, '-m instructrl.study')
  assert f'--parallel={parallel} ' in study


def test_the_environment_alone(checkout):
  result = run(checkout, 'env.sh')
  assert result.returncode == 0, result.stderr
  assert len(calls(checkout, '-m pip install')) == 1
  assert not calls(checkout, '-m instructrl')
  assert f'source {checkout}/.venv/bin/activate' in result.stdout


def test_the_workdir_is_relative_to_where_one_stands(checkout):
  assert run(checkout, 'quickstart.sh', 'my run').returncode == 0
  workdir = checkout.parent / 'elsewhere' / 'my run'
  assert workdir.is_dir()
  assert calls(checkout, '-m instructrl')[0].endswith(f'--workdir={workdir}')


def test_the_status_of_the_study_is_passed_on(checkout):
  result = run(checkout, 'quickstart.sh', fail='study')
  check_one_clear_line(result, 'status 7', 'same command')
  assert result.returncode == 7


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_what_ends_the_script_ends_the_study(checkout, number):
  process = start(checkout, 'quickstart.sh', fail='slow')
  deadline = time.monotonic() + 30
  while not (calls(checkout) and calls(checkout)[-1].isdigit()):
    assert time.monotonic() < deadline and process.poll() is None
    time.sleep(0.05)
  study = int(calls(checkout)[-1])
  process.send_signal(number)
  _, stderr = process.communicate(timeout=30)
  assert process.returncode == 128 + signal.SIGTERM
  assert 'the same command' in stderr
  with pytest.raises(ProcessLookupError):
    os.kill(study, 0)


def test_test_script_adds_to_the_environment(checkout):
  run(checkout, 'quickstart.sh')
  assert run(checkout, 'test.sh').returncode == 0
  assert not calls(checkout, '-m venv')
  assert '[test]' in calls(checkout, '-m pip install')[0]
  result = run(checkout, 'test.sh', '--all', '-k', 'two words')
  assert result.returncode == 0, result.stderr
  assert not calls(checkout, '-m venv')
  assert '[test,hf]' in calls(checkout, '-m pip install')[0]
  assert calls(checkout, '-m pytest') == [
    '-m pytest -n 2 --dist loadfile --no-loadscope-reorder --all -k two words'
  ]
  assert f'tests in {checkout}' in result.stdout
  # Both find all they need from now on.
  for script in ('quickstart.sh', 'test.sh'):
    run(checkout, script)
    assert not calls(checkout, '-m pip install')


@pytest.mark.parametrize('checker', ['ruff', 'mypy'])
def test_style_and_types_are_checked_before_the_tests(checkout, checker):
  result = run(checkout, 'test.sh', fail=checker)
  assert result.returncode == 5
  assert calls(checkout, f'-m {checker}')
  assert not calls(checkout, '-m pytest')


@pytest.mark.parametrize('how', ['pip', 'kill'])
@pytest.mark.parametrize('before', [(), ('quickstart.sh',)])
def test_an_interrupted_installation_starts_again(checkout, how, before):
  for script in before:
    run(checkout, script)
  assert run(checkout, 'test.sh', fail=how).returncode != 0
  leftover = checkout / '.venv' / 'half installed'
  leftover.touch()
  result = run(checkout, 'quickstart.sh')
  assert result.returncode == 0, result.stderr
  assert len(calls(checkout, '-m pip install')) == 1
  assert not leftover.exists()


def test_changed_pins_install_again(checkout):
  run(checkout, 'quickstart.sh')
  for name in ('setup.py', 'scripts/constraints.txt'):
    with (checkout / name).open('a') as file:
      file.write('# changed\n')
    run(checkout, 'quickstart.sh')
    assert len(calls(checkout, '-m pip install')) == 1
    run(checkout, 'quickstart.sh')
    assert not calls(checkout, '-m pip install')


def test_a_broken_environment_is_made_again(checkout):
  run(checkout, 'quickstart.sh')
  (checkout / '.venv' / 'bin' / 'python').unlink()
  assert run(checkout, 'quickstart.sh').returncode == 0
  assert len(calls(checkout, '-m pip install')) == 1


def test_a_failed_installation_says_why(checkout):
  result = run(checkout, 'quickstart.sh', fail='pip')
  check_one_clear_line(result, 'ERROR: no such thing', 'install.log')
  assert not calls(checkout, '-m instructrl')


def test_an_environment_that_cannot_be_made(checkout):
  result = run(checkout, 'quickstart.sh', fail='venv')
  check_one_clear_line(result, 'python3-venv')


def test_an_old_python_is_refused(checkout):
  result = run(checkout, 'quickstart.sh', OLD_PYTHON='1')
  check_one_clear_line(result, '3.11', 'fakepython')
  assert not (checkout / '.venv').exists()


def test_no_python_at_all(checkout):
  result = run(checkout, 'test.sh', PYTHON='nosuchpython')
  check_one_clear_line(result, '3.11', 'nosuchpython')


def test_the_newest_names_are_tried_first(checkout):
  binaries = checkout.parent / 'bin'
  (binaries / 'fakepython').rename(binaries / 'python3.11')
  assert run(checkout, 'quickstart.sh', PYTHON='').returncode == 0
  assert calls(checkout, '-m venv')


def test_a_full_disk(checkout):
  write_program(
    checkout.parent / 'bin' / 'df',
    """#!/usr/bin/env bash
echo 'Filesystem 1024-blocks Used Available Capacity Mounted on'
echo "disk 9 9 ${FREE_KIB} 9% /"
""",
  )
  result = run(checkout, 'quickstart.sh', FREE_KIB='204800')
  check_one_clear_line(result, '1 GiB', '200 MiB')
  # Enough for the run and not for the installation.
  result = run(checkout, 'quickstart.sh', FREE_KIB='2097152')
  check_one_clear_line(result, '3 GiB', '2048 MiB')
  assert not (checkout / '.venv').exists()
  assert run(checkout, 'quickstart.sh', FREE_KIB='4194304').returncode == 0
  # Nothing is left to install.
  assert run(checkout, 'quickstart.sh', FREE_KIB='2097152').returncode == 0


def test_a_workdir_that_is_a_file(checkout):
  (checkout.parent / 'elsewhere' / 'file').touch()
  result = run(checkout, 'quickstart.sh', 'file')
  check_one_clear_line(result, 'file', 'directory')
  result = run(checkout, 'quickstart.sh', 'file/below')
  check_one_clear_line(result, 'file/below')
  assert not (checkout / '.venv').exists()


@pytest.mark.skipif(os.geteuid() == 0, reason='root may write anywhere')
def test_a_workdir_that_cannot_be_written(checkout):
  workdir = checkout.parent / 'elsewhere' / 'locked'
  workdir.mkdir(mode=0o500)
  result = run(checkout, 'quickstart.sh', 'locked')
  check_one_clear_line(result, 'cannot write', 'locked')


def test_wrong_arguments_show_the_usage(checkout):
  for args in (('a', 'b'), ('--help',)):
    check_one_clear_line(run(checkout, 'quickstart.sh', *args), 'usage')


def test_what_the_shell_is_set_up_for_does_not_leak_in(checkout):
  fake = checkout.parent / 'bin' / 'fakepython'
  text = fake.read_text().replace(
    'echo "study in $PWD"', 'echo "path:${PYTHONPATH:-none}"'
  )
  write_program(fake, text)
  result = run(checkout, 'quickstart.sh', PYTHONPATH='/somewhere')
  assert 'path:none' in result.stdout


def test_ci_runs_everything():
  for workflow in ('.ci/run', '.github/workflows/ci.yml'):
    assert 'bash scripts/test.sh --all' in (ROOT / workflow).read_text()
