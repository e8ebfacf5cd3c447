"""A fake cloud with one slice, for launch_test.py: `gcloud` and workers.

`gcloud` appends each call to `calls.jsonl` and keeps the slice in `slice.json`.
A worker is a folder, and bash really runs the commands there. A bucket is a
folder too. `train` replaces the training command; `plan.json` defines its
behaviour in each attempt.
"""

import shlex
import sys

GCLOUD = r'''
import json, os, pathlib, signal, sys, time

CLOUD = pathlib.Path(os.environ['CLOUD'])
ARGS = sys.argv[1:]
NEXT = {'WAITING_FOR_RESOURCES': 'PROVISIONING', 'PROVISIONING': 'ACTIVE',
        'SUSPENDING': 'SUSPENDED'}


def flag(name):
  values = [a.split('=', 1)[1] for a in ARGS if a.startswith(f'--{name}=')]
  return values[-1] if values else None


def load():
  path = CLOUD / 'slice.json'
  return json.loads(path.read_text()) if path.exists() else None


def store(found):
  (CLOUD / 'slice.json').write_text(json.dumps(found))


def fail(message):
  sys.exit(f'ERROR: (gcloud.compute.tpus) {message}')


def homes():
  return [CLOUD / f'worker{i}' for i in range(int(os.environ['WORKERS']))]


def is_alive(process):
  try:
    return bool(pathlib.Path(f'/proc/{process}/cmdline').read_bytes())
  except OSError:
    return False


def end_workers():
  """Ends a machine as Google does: SIGTERM to all processes, then nothing."""
  import shutil  # where it is needed: this program starts often
  groups = []
  for home in homes():
    path = home / '.instructrl' / 'pid'
    if path.exists():
      groups.append(int(path.read_text()))
  for number in (signal.SIGTERM, signal.SIGKILL):
    for group in groups:
      try:
        os.killpg(group, number)
      except ProcessLookupError:
        pass
    deadline = time.monotonic() + 30
    while (number == signal.SIGTERM and any(map(is_alive, groups))
           and time.monotonic() < deadline):
      time.sleep(0.02)
  for home in homes():
    shutil.rmtree(home, ignore_errors=True)


def need_slice():
  found = load()
  if found is None:
    fail(f"NOT_FOUND: Resource 'projects/p/{ARGS[4]}' was not found.")
  return found


def preempt_if_asked():
  if (CLOUD / 'preempt').exists() and load():
    (CLOUD / 'preempt').unlink()
    end_workers()
    store(load() | {'state': 'SUSPENDING', 'node': 'PREEMPTED'})


def queued_resources(verb):
  if verb == 'create':
    if load():
      fail('ALREADY_EXISTS: the resource exists')
    if (CLOUD / 'refuse').exists():
      fail('RESOURCE_EXHAUSTED: Quota limit of 8 chips was exceeded.')
    for home in homes():
      home.mkdir()
    store({'state': 'WAITING_FOR_RESOURCES', 'node': 'CREATING',
           'type': flag('accelerator-type')})
  elif verb == 'delete':
    found = need_slice()
    assert '--force' in ARGS and '--quiet' in ARGS
    store(found | {'state': 'DELETING'})
    end_workers()
    (CLOUD / 'slice.json').unlink()
  elif flag('format') == 'value(state.state)':
    found = need_slice()
    if (CLOUD / 'fail').exists() and found['state'] == 'PROVISIONING':
      found['state'] = 'FAILED'
    print(found['state'])
    found['state'] = NEXT.get(found['state'], found['state'])
    store(found | ({'node': 'READY'} if found['state'] == 'ACTIVE' else {}))
  else:
    print('no capacity')


def ssh(found):
  if found['node'] != 'READY':
    fail(f'the TPU VM is in state {found["node"]}')
  import subprocess
  worker, status = flag('worker'), 0
  for i, home in enumerate(homes()):
    if worker in (str(i), 'all'):
      environment = os.environ | {'HOME': str(home), 'INSTRUCTRL_HOST': str(i)}
      environment.pop('GIVE_UP_AFTER', None)
      done = subprocess.run(['bash', '-c', flag('command')], cwd=home,
                            env=environment)
      status = status or done.returncode
  sys.exit(status)


def main():
  with (CLOUD / 'calls.jsonl').open('a') as file:
    file.write(json.dumps(ARGS) + '\n')
  if ARGS[:3] == ['storage', 'buckets', 'describe']:
    print((CLOUD / 'namespace').read_text())
    return
  assert ARGS[:2] == ['compute', 'tpus'] and flag('zone'), ARGS
  preempt_if_asked()
  if ARGS[2] == 'queued-resources':
    queued_resources(ARGS[3])
    return
  found = need_slice()
  if ARGS[3] == 'describe':
    print(found['node' if flag('format') == 'value(state)' else 'type'])
  elif ARGS[3] == 'scp':
    for home in homes():
      (home / 'checkout.tar.gz').write_bytes(pathlib.Path(ARGS[4]).read_bytes())
  elif ARGS[3] == 'ssh':
    ssh(found)
  else:
    sys.exit(f'not expected: {ARGS}')


main()
'''

TRAIN = r"""
import json, os, pathlib, signal, sys, time

CLOUD, HOST = pathlib.Path(os.environ['CLOUD']), os.environ['INSTRUCTRL_HOST']
WORKDIR = pathlib.Path(next(
    a.split('=', 1)[1] for a in sys.argv if a.startswith('--workdir=')))


def checkpoint(step):
  if HOST == '0' and step:
    (WORKDIR / 'checkpoints' / f'{step:08d}').mkdir(parents=True)


def on_sigterm(number, frame):
  checkpoint(PLAN.get('saved'))
  sys.exit(75)


signal.signal(signal.SIGTERM, on_sigterm)
notes = CLOUD / f'train{HOST}.jsonl'
with notes.open('a') as file:
  file.write(json.dumps(sys.argv[1:]) + '\n')
attempt = len(notes.read_text().splitlines()) - 1
plans = json.loads((CLOUD / 'plan.json').read_text())
PLAN = plans[min(attempt, len(plans) - 1)]
print(f'attempt {attempt} of worker {HOST} in {os.getcwd()}', flush=True)
checkpoint(PLAN.get('checkpoint'))
if PLAN.get('preempt') and HOST == '0':
  while len(list(CLOUD.glob('train*.jsonl'))) < int(os.environ['WORKERS']):
    time.sleep(0.02)  # until all have started
  (CLOUD / 'preempt').touch()
if PLAN.get('wait'):
  time.sleep(60)
print('a last line', flush=True)
status = PLAN.get('status', 0)
sys.exit(status[int(HOST)] if isinstance(status, list) else status)
"""

PYTHON = """
case "$*" in
  --version) echo 'Python 3.11.0' ;;
  -c*) ;;
  "- "*) exec {python} "$@" ;;
  "-m venv "*) mkdir -p "${{@: -1}}/bin" && cp "$0" "${{@: -1}}/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install"*) echo "$*" >> "$CLOUD/pip.log" ;;
  *) echo "not expected: $*" >&2; exit 99 ;;
esac
"""


def make(folder, *, workers=1) -> dict[str, str]:
  """Makes the programs and an empty cloud; returns the environment."""
  programs = folder / 'bin'
  programs.mkdir()
  (folder / 'namespace').write_text('True')
  (folder / 'plan.json').write_text('[{}]')

  def write(name, text):
    (programs / name).write_text(text)
    (programs / name).chmod(0o755)

  # -I -S: these start often, and need no packages.
  for name, text in (('gcloud', GCLOUD), ('train', TRAIN)):
    write(name, f'#!{sys.executable} -IS\n{text}')
  write(
    'fakepython',
    '#!/usr/bin/env bash\n' + PYTHON.format(python=shlex.quote(sys.executable)),
  )
  write('sudo', '#!/usr/bin/env bash\nexec "$@"\n')
  write('mountpoint', '#!/usr/bin/env bash\n[ -e "$HOME/.mounted" ]\n')
  write(
    'gcsfuse',
    '#!/usr/bin/env bash\n'
    'echo "$*" >> "$CLOUD/gcsfuse.log"; touch "$HOME/.mounted"\n',
  )
  path = f'{programs}:/usr/bin:/bin'
  return {
    'PATH': path,
    'HOME': str(folder),
    'CLOUD': str(folder),
    'WORKERS': str(workers),
    'PYTHON': 'fakepython',
  }
