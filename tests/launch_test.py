"""The TPU VM launcher, with a stand-in for gcloud and folders as workers.

The scripts really run on the "workers". The tests do not show that Google's
commands accept these flags and give these answers.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests import fake_cloud

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / 'scripts' / 'launch'
SCRIPTS = sorted(path.name for path in LAUNCH.glob('*.sh'))
RESTART = [74, 75, 76, 134, 137, 143]  # statuses after which a run resumes
FLAGS = ('--name=s1', '--zone=z1', '--project=p1')
MAKE = ('--type=v6e-16', '--bucket=gs://b1/', '--poll=0.05')


@pytest.fixture(name='checkout', scope='module')
def _checkout(tmp_path_factory):
  """A commit of the scripts to launch from, with a space in its path."""
  checkout = tmp_path_factory.mktemp('launch') / 'my checkout'
  shutil.copytree(ROOT / 'scripts', checkout / 'scripts')
  shutil.copy(ROOT / 'setup.py', checkout)
  for command in ('init -q', 'add -A', 'commit -qm m'):
    subprocess.run(
      ['git', '-c', 'user.name=n', '-c', 'user.email=e', *command.split()],
      cwd=checkout,
      check=True,
    )
  return checkout


@pytest.fixture(name='cloud')
def _cloud(tmp_path, checkout):
  cloud = Cloud(tmp_path, fake_cloud.make(tmp_path), checkout)
  yield cloud
  for process in cloud.processes:
    process.kill()  # left by a test that failed
  cloud.end()


class Cloud:
  """A fake cloud: starts commands and reads what they did."""

  def __init__(self, folder, environment, checkout):
    self.folder = folder
    self.script = checkout / 'scripts' / 'launch' / 'tpu_vm.sh'
    self.environment = environment
    self.mount = folder / 'the bucket'
    self.processes = []

  def use_workers(self, count):
    self.environment['WORKERS'] = str(count)

  def plan(self, *attempts):
    (self.folder / 'plan.json').write_text(json.dumps(attempts))

  def start(self, action, *args, **variables):
    # A job in the background ignores SIGINT, which its children would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    self.processes.append(
      subprocess.Popen(
        ['bash', str(self.script), action, *args],
        cwd=self.folder,
        env=self.environment | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
    return self.processes[-1]

  def call(self, action, *args, **variables):
    process = self.start(action, *args, **variables)
    stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(
      process.args, process.returncode, stdout, stderr
    )

  def run_args(self, *flags, args=()):
    return (
      *FLAGS,
      *MAKE,
      f'--mount={self.mount}',
      *flags,
      '--',
      'train',
      f'--workdir={self.mount}/runs/a',
      *args,
    )

  def run(self, *flags, args=()):
    return self.call('run', *self.run_args(*flags, args=args))

  def calls(self, *words):
    """Returns the calls of gcloud that contain all of these words."""
    path = self.folder / 'calls.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line) for line in lines]
    return [call for call in found if set(words) <= set(call)]

  def attempts(self, worker=0):
    """Returns the arguments of each start of the command on a worker."""
    path = self.folder / f'train{worker}.jsonl'
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]

  def exists(self):
    return (self.folder / 'slice.json').exists()

  def wait_for(self, condition, process=None):
    deadline = time.monotonic() + 30
    while not condition():
      assert time.monotonic() < deadline
      assert process is None or process.poll() is None, process.communicate()
      time.sleep(0.02)

  def end(self):
    """Kills the processes that still run on the workers."""
    for path in self.folder.glob('worker*/.instructrl/pid'):
      try:
        os.killpg(int(path.read_text()), signal.SIGKILL)
      except ProcessLookupError:
        pass


def check_one_clear_line(result, *words):
  assert result.returncode == 1
  lines = result.stderr.strip().splitlines()
  assert len(lines) == 1, result.stderr
  for word in words:
    assert word in lines[0]


# The scripts themselves.


@pytest.mark.parametrize('name', SCRIPTS)
def test_the_syntax(name):
  subprocess.run(['bash', '-n', str(LAUNCH / name)], check=True)


SHELLCHECK = shutil.which(
  'shellcheck',
  path=f'{pathlib.Path(sys.executable).parent}:{os.environ["PATH"]}',
)


@pytest.mark.skipif(
  not SHELLCHECK,
  reason='shellcheck is not installed: it is in the extra "test"',
)
def test_shellcheck():
  done = subprocess.run(
    [SHELLCHECK, '-x', *(f'scripts/launch/{name}' for name in SCRIPTS)],
    cwd=ROOT,
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout


# A run from its start to the deletion of the slice.


def test_a_preempted_run_goes_on_and_the_slice_is_deleted(cloud):
  cloud.use_workers(2)
  cloud.plan(
    {'checkpoint': 1, 'preempt': True, 'wait': True, 'saved': 2},
    {'checkpoint': 3, 'status': 0},
  )
  result = cloud.run(
    '--spot', '--delete-when-done', '--create-flag=--network=n 1'
  )
  assert result.returncode == 0, result.stderr

  (first, second) = cloud.calls('queued-resources', 'create')
  assert (
    first
    == second
    == [
      'compute',
      'tpus',
      'queued-resources',
      'create',
      's1',
      '--node-id=s1',
      '--accelerator-type=v6e-16',
      '--runtime-version=v2-alpha-tpuv6e',
      '--spot',
      '--network=n 1',
      '--zone=z1',
      '--project=p1',
    ]
  )
  verbs = [
    call[3]
    for call in cloud.calls('compute')
    if call[3] in ('create', 'scp', 'delete')
  ]
  assert verbs == ['create', 'scp', 'delete', 'create', 'scp', 'delete']
  assert not cloud.exists()
  assert 'costs money' not in result.stderr

  for worker in (0, 1):
    assert cloud.attempts(worker) == 2 * [[f'--workdir={cloud.mount}/runs/a']]
  steps = cloud.mount / 'runs' / 'a' / 'checkpoints'
  assert sorted(path.name for path in steps.iterdir()) == [
    '00000001',
    '00000002',
    '00000003',
  ]  # 2 was saved at SIGTERM
  assert not (cloud.mount / 'runs' / 'a.attempts').exists()
  # The second log was read to its end, and both are in the bucket.
  assert 'attempt 1 of worker 0' in result.stdout
  assert result.stdout.count('a last line') == 1
  logs = sorted((cloud.mount / 'launch' / 's1').rglob('worker-*.log'))
  assert [log.name for log in logs] == 2 * ['worker-0.log', 'worker-1.log']
  assert 'a last line' in logs[-1].read_text()


def test_what_is_put_on_the_workers(cloud):
  cloud.use_workers(2)
  assert cloud.run().returncode == 0
  for worker in (0, 1):
    home = cloud.folder / f'worker{worker}'
    assert (home / 'instructrl' / 'setup.py').exists()
    assert (home / 'instructrl' / '.venv' / '.installed').exists()
  installed = (cloud.folder / 'pip.log').read_text().splitlines()
  assert len(installed) == 2 and all('[tpu]' in line for line in installed)
  mounts = (cloud.folder / 'gcsfuse.log').read_text().splitlines()
  assert len(mounts) == 2
  for flag in (
    '--metadata-cache-ttl-secs=0',
    f' b1 {cloud.mount}',
    '--metadata-cache-negative-ttl-secs=0',
    '--enable-streaming-writes=false',
  ):
    assert flag in mounts[0]


@pytest.mark.parametrize(
  'kind,runtime',
  [
    ('v4-32', 'tpu-ubuntu2204-base'),
    ('v5litepod-64', 'v2-alpha-tpuv5-lite'),
    ('v5p-64', 'v2-alpha-tpuv5'),
  ],
)
def test_runtime_versions(cloud, kind, runtime):
  result = cloud.call(
    'up',
    *FLAGS,
    *MAKE,
    f'--type={kind}',
    '--reserved',
    f'--mount={cloud.mount}',
  )
  assert result.returncode == 0, result.stderr
  (call,) = cloud.calls('create')
  assert f'--runtime-version={runtime}' in call and '--reserved' in call
  assert 's1 in z1 still exists and costs money' in result.stderr
  assert 'tpu_vm.sh down --name=s1 --zone=z1 --project=p1' in result.stderr


def test_arguments_reach_the_command_as_they_are(cloud):
  args = ['--config.a=two words', "it's", '"q"', '$HOME `x` \\ *', 'é', '']
  assert cloud.run(args=args).returncode == 0
  assert cloud.attempts()[0][1:] == args


# Exit statuses.


def test_statuses_after_which_the_run_goes_on(cloud):
  cloud.plan(
    *(
      {'checkpoint': i, 'status': status} for i, status in enumerate(RESTART, 1)
    ),
    {'status': 0},
  )
  result = cloud.run()
  assert result.returncode == 0, result.stderr
  assert len(cloud.attempts()) == len(RESTART) + 1
  for status in RESTART:
    assert f'status {status}' in result.stderr
  assert len(cloud.calls('create')) == 1  # on the same slice


@pytest.mark.parametrize('status', [1, 139, [76, 1]])
def test_a_failure_is_not_started_again(cloud, status):
  cloud.use_workers(2 if isinstance(status, list) else 1)
  cloud.plan({'checkpoint': 1, 'status': status})
  result = cloud.run()
  assert result.returncode == 1
  assert len(cloud.attempts()) == 1
  assert 'not started again' in result.stderr
  assert 'a last line' in result.stdout
  assert cloud.exists()
  assert 'costs money' in result.stderr.splitlines()[-1]


def test_a_run_is_finished_when_it_is_on_all_workers(cloud):
  cloud.use_workers(2)
  cloud.plan({'checkpoint': 1, 'status': [0, 76]}, {})
  assert cloud.run().returncode == 0
  assert len(cloud.attempts()) == 2


def test_a_failed_run_is_deleted_too_if_asked_for(cloud):
  cloud.plan({'status': 1})
  result = cloud.run('--delete-when-done')
  assert result.returncode == 1
  assert not cloud.exists()
  assert list((cloud.mount / 'launch' / 's1').rglob('worker-0.log'))


def test_a_crash_loop_stops(cloud):
  cloud.plan({'checkpoint': 1, 'status': 76}, {'status': 76})
  result = cloud.run('--give-up-after=2')
  assert result.returncode == 1
  # One attempt made a checkpoint, and two made no new one.
  assert len(cloud.attempts()) == 3
  assert 'gave up: 2 attempts' in result.stdout
  assert 'costs money' in result.stderr
  # A start by hand gets all attempts again.
  cloud.plan({})
  assert cloud.run('--give-up-after=2').returncode == 0


def test_a_study_that_ends_stages_is_no_crash_loop(cloud, tmp_path):
  study = tmp_path / 'study'
  command = [
    'bash',
    str(LAUNCH / 'attempt.sh'),
    'bash',
    '-c',
    'd=$(mktemp -d "$1XXXXXX") && touch "$d/DONE"; exit 75',
    '_',
    f'{study}/',
    f'--workdir={study}/',
  ]
  environment = cloud.environment | {'GIVE_UP_AFTER': '2'}
  study.mkdir()
  for _ in range(4):
    assert subprocess.run(command, env=environment).returncode == 75
  # Only the first host counts.
  before = (tmp_path / 'study.attempts').read_text()
  others = environment | {'TPU_WORKER_ID': '3'}
  assert subprocess.run(command, env=others).returncode == 75
  assert (tmp_path / 'study.attempts').read_text() == before


@pytest.mark.parametrize('host', ['0', '1'])
def test_sigterm_reaches_the_command_and_its_status_comes_back(tmp_path, host):
  for _ in range(5):  # `wait` has a race with the end of a command
    process = subprocess.Popen(
      [
        'bash',
        str(LAUNCH / 'attempt.sh'),
        'bash',
        '-c',
        'trap "exit 75" TERM; echo; while :; do sleep 0.01; done',
        '_',
        '--workdir',
        str(tmp_path / 'a'),
      ],
      stdout=subprocess.PIPE,
      env=os.environ | {'INSTRUCTRL_HOST': host, 'GIVE_UP_AFTER': '9'},
    )
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    process.stdout.close()


def test_sigterm_while_the_command_starts_is_passed_on(tmp_path):
  # `eval` runs in the fork itself: it signals before its parent continues.
  script = 'trap "exit 75" TERM; kill -TERM $$; while :; do sleep 0.01; done; :'
  for _ in range(10):
    done = subprocess.run(
      [
        'bash',
        str(LAUNCH / 'attempt.sh'),
        'eval',
        script,
        f'--workdir={tmp_path / "a"}',
      ],
      timeout=30,
      env=os.environ | {'INSTRUCTRL_HOST': '0', 'GIVE_UP_AFTER': '99'},
    )
    assert done.returncode == 75


# Interruptions.


def test_ctrl_c_leaves_the_run_and_the_same_command_follows_it(cloud):
  cloud.plan({'checkpoint': 1, 'wait': True, 'saved': 2}, {})
  process = cloud.start('run', *cloud.run_args('--delete-when-done'))
  cloud.wait_for(cloud.attempts, process)
  process.send_signal(signal.SIGINT)
  _, stderr = process.communicate(timeout=30)
  assert process.returncode == 130
  assert 'the run goes on' in stderr
  assert 'tpu_vm.sh down --name=s1' in stderr.splitlines()[-1]
  assert cloud.exists()

  process = cloud.start('run', *cloud.run_args())
  cloud.wait_for(lambda: len(cloud.calls('--worker=0')) > 4, process)
  result = cloud.call('status', *FLAGS)
  assert result.stdout.splitlines() == ['s1: READY', 'the run: running']
  other = cloud.call('run', *cloud.run_args(args=['--config=other']))
  assert other.returncode == 1
  assert 'another command is running' in other.stderr

  result = cloud.call('stop', *FLAGS)
  assert result.returncode == 0, result.stderr
  assert 'stopped:75 worker 0' in result.stdout
  stdout, stderr = process.communicate(timeout=30)
  assert process.returncode == 75
  assert 'stopped on request' in stderr
  assert 'attempt 0 of worker 0' in stdout
  assert len(cloud.attempts()) == 1
  assert (cloud.mount / 'runs/a/checkpoints/00000002').exists()

  assert cloud.run().returncode == 0
  assert len(cloud.attempts()) == 2
  result = cloud.call('down', *FLAGS)
  assert result.returncode == 0 and not cloud.exists()
  assert 'costs money' not in result.stderr


def test_a_slice_deleted_by_someone_is_not_made_again(cloud):
  cloud.plan({'wait': True})
  process = cloud.start('run', *cloud.run_args())
  cloud.wait_for(cloud.attempts, process)
  subprocess.run(
    [
      'gcloud',
      'compute',
      'tpus',
      'queued-resources',
      'delete',
      's1',
      '--zone=z1',
      '--force',
      '--quiet',
    ],
    env=cloud.environment,
    check=True,
  )
  _, stderr = process.communicate(timeout=30)
  assert process.returncode == 1
  assert 'was deleted' in stderr and 'costs money' not in stderr
  assert len(cloud.calls('create')) == 1


def test_ctrl_c_while_waiting_for_a_slice(cloud):
  (cloud.folder / 'slice.json').write_text(
    json.dumps({'state': 'CREATING', 'node': '', 'type': 'v6e-16'})
  )
  process = cloud.start('run', *cloud.run_args())
  cloud.wait_for(lambda: len(cloud.calls('describe')) > 3, process)
  process.send_signal(signal.SIGINT)
  _, stderr = process.communicate(timeout=30)
  assert process.returncode == 130
  assert 'be made when its turn comes' in stderr
  assert 'tpu_vm.sh down' in stderr


def test_a_run_lost_in_a_reboot_is_started_again(cloud):
  cloud.plan({'checkpoint': 1, 'wait': True}, {})
  process = cloud.start('run', *cloud.run_args())
  cloud.wait_for(cloud.attempts, process)
  cloud.end()
  _, stderr = process.communicate(timeout=30)
  assert process.returncode == 0, stderr
  assert 'as after a reboot' in stderr
  assert len(cloud.attempts()) == 2


def test_a_command_is_started_once_for_each_attempt(cloud):
  """gcloud repeats a command after a lost connection."""
  cloud.plan({'wait': True})
  process = cloud.start('run', *cloud.run_args())
  cloud.wait_for(cloud.attempts, process)
  (start,) = [
    call
    for call in cloud.calls('--worker=all')
    if any(' start ' in word for word in call)
  ]
  subprocess.run(['gcloud', *start], env=cloud.environment, check=True)
  assert len(cloud.attempts()) == 1
  process.terminate()
  process.communicate(timeout=30)
  assert process.returncode == 130


# Errors that are found before anything costs money.


@pytest.mark.parametrize(
  'flags,words',
  [
    (('--zone=z', *MAKE), ['--name']),
    (('--name=n', *MAKE), ['--zone']),
    ((*FLAGS, '--bucket=b'), ['--type']),
    ((*FLAGS, '--type=v6e-16'), ['--bucket']),
    ((*FLAGS, *MAKE, '--type=tpu7x-8'), ['tpu7x-8', 'gke_jobset.yaml']),
    ((*FLAGS, *MAKE, '--spot', '--reserved'), ['exclude']),
    ((*FLAGS, *MAKE, '--give-up-after=x'), ['--give-up-after=x']),
    ((*FLAGS, *MAKE, '--nam=n'), ["'--nam=n'", '--help']),
    ((*FLAGS, *MAKE), ['command is missing']),
    (
      (*FLAGS, *MAKE, '--', 'train', '--workdir=runs/a'),
      ['--workdir=runs/a', '/mnt/bucket'],
    ),
  ],
)
def test_wrong_flags(cloud, flags, words):
  check_one_clear_line(cloud.call('run', *flags), *words)
  assert not cloud.calls()


def test_an_action_that_is_not_there(cloud):
  check_one_clear_line(cloud.call('dance'), "'dance'", '--help')
  result = cloud.call('--help')
  assert result.returncode == 0 and '--delete-when-done' in result.stdout


def test_help_after_an_action_is_help(cloud):
  result = cloud.call('run', '--help')
  assert result.returncode == 0 and '--delete-when-done' in result.stdout


def test_a_command_without_a_workdir(cloud):
  result = cloud.call('run', *FLAGS, *MAKE, '--', 'python', '--workdir', '/x')
  check_one_clear_line(result, 'the command has no --workdir=/mnt/bucket/')


@pytest.mark.parametrize(
  'words, told',
  [
    (
      'ERROR: (gcloud.x) You have no account.\nPlease run:\n'
      '  $ gcloud auth login\nto select an account to use.',
      'You have no',
    ),
    (
      'ERROR: (gcloud.x) Error parsing [queued_resource].\n'
      'Failed to find attribute [project]. The attribute',
      '--project=P',
    ),
  ],
)
def test_of_what_gcloud_says_the_reason_is_shown(cloud, words, told):
  gcloud = cloud.folder / 'bin' / 'gcloud'
  gcloud.unlink()
  gcloud.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{words}\nEND\nexit 1\n")
  gcloud.chmod(0o755)
  check_one_clear_line(cloud.run(), told)
  check_one_clear_line(cloud.call('status', *FLAGS), told)


def test_without_gcloud(cloud):
  (cloud.folder / 'bin' / 'gcloud').unlink()
  if shutil.which('gcloud', path=cloud.environment['PATH']):
    # The system's programs without that one.
    for name in ('bash', 'basename', 'dirname', 'date', 'sed', 'mktemp'):
      (cloud.folder / 'bin' / name).symlink_to(shutil.which(name))
  result = cloud.call('run', *cloud.run_args(), PATH=str(cloud.folder / 'bin'))
  check_one_clear_line(result, 'gcloud is not installed')


def test_a_bucket_without_a_hierarchical_namespace(cloud):
  (cloud.folder / 'namespace').write_text('')
  check_one_clear_line(cloud.run(), 'b1', 'hierarchical')
  assert not cloud.calls('create')


def test_a_refused_slice(cloud):
  (cloud.folder / 'refuse').touch()
  result = cloud.run()
  assert result.returncode == 1
  assert 'Quota limit' in result.stderr.splitlines()[-1]
  assert len(cloud.calls('create')) == 1


def test_a_slice_that_cannot_be_made(cloud):
  (cloud.folder / 'fail').touch()
  result = cloud.run()
  assert result.returncode == 1
  assert 'could not be made: no capacity' in result.stderr.splitlines()[-1]
  assert len(cloud.calls('create')) == len(cloud.calls('delete')) == 3
  assert not cloud.exists()


def test_a_slice_of_another_type(cloud):
  cloud.run()
  result = cloud.run('--type=v6e-32', '--delete-when-done')
  assert result.returncode == 1
  assert 'is a v6e-16, not a v6e-32' in result.stderr
  assert cloud.exists()


def test_a_bucket_that_cannot_be_written(cloud):
  cloud.mount.write_text('in the way')
  result = cloud.run()
  assert result.returncode == 1
  assert 'cannot set up the workers' in result.stderr
  assert len(cloud.calls('scp')) == 3
  assert not cloud.attempts()


def test_nothing_to_stop_or_delete(cloud):
  check_one_clear_line(cloud.call('stop', *FLAGS), 'no run to stop')
  assert cloud.call('down', *FLAGS).returncode == 0
  assert cloud.call('status', *FLAGS).stdout == 's1: does not exist\n'
