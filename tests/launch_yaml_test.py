"""The fields of the SkyPilot and GKE files; the services are not called.

The schemas need packages that are not installed here. The files were valid by
SkyPilot 0.14.1's own schema and by the models of JobSet and Kubernetes.
"""

import pathlib
import subprocess

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAUNCH = ROOT / 'scripts' / 'launch'
RESTART = [74, 75, 76, 134, 137, 143]  # statuses after which a run resumes


def test_skypilot():
  task = yaml.safe_load((LAUNCH / 'skypilot.yaml').read_text())
  assert set(task) == {
    'name',
    'resources',
    'envs',
    'workdir',
    'file_mounts',
    'setup',
    'run',
  }
  recovery = task['resources']['job_recovery']
  # SkyPilot gives 137 to the hosts that it ends when one fails.
  assert recovery == {
    'recover_on_exit_codes': [74, 75, 76, 134],
    'max_restarts_on_errors': 0,
  }
  assert set(recovery['recover_on_exit_codes']) < set(RESTART)
  assert task['resources']['accelerators'].startswith('tpu-v6e-')
  assert (
    task['resources']['accelerator_args']['runtime_version']
    == 'v2-alpha-tpuv6e'
  )
  assert task['file_mounts'] == {
    '/mnt/bucket': {'source': 'gs://${BUCKET}', 'mode': 'MOUNT'}
  }
  assert task['envs'] == {'BUCKET': None}  # must be given
  for name in ('setup', 'run'):
    subprocess.run(['bash', '-n', '-c', task[name]], check=True)
  check_command(task['run'].replace('\\\n', ' ').split())


def check_command(words):
  """attempt.sh starts the command; its files exist, its folder is kept."""
  start = words.index('scripts/launch/attempt.sh')
  assert words[start - 1 : start + 3] == [
    'bash',
    'scripts/launch/attempt.sh',
    'python',
    '-m',
  ]
  assert (ROOT / words[start + 3].replace('.', '/')).with_suffix('.py').exists()
  flags = dict(word.split('=', 1) for word in words[start:] if '=' in word)
  assert (ROOT / flags['--config'].split(':')[0]).exists()
  assert flags['--workdir'].startswith('/mnt/bucket/')


def test_gke():
  account, jobset = yaml.safe_load_all((LAUNCH / 'gke_jobset.yaml').read_text())
  assert jobset['apiVersion'] == 'jobset.x-k8s.io/v1alpha2'
  spec = jobset['spec']
  assert spec['failurePolicy']['maxRestarts'] > 0
  assert [
    (rule['action'], rule['onJobFailureReasons'])
    for rule in spec['failurePolicy']['rules']
  ] == [('FailJobSet', ['PodFailurePolicy'])]
  (replicated,) = spec['replicatedJobs']
  job = replicated['template']['spec']
  pod = job['template']['spec']
  (container,) = pod['containers']

  chips = 1
  for side in pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split(
    'x'
  ):
    chips *= int(side)
  hosts = chips // int(container['resources']['limits']['google.com/tpu'])
  assert job['completions'] == job['parallelism'] == hosts
  assert job['completionMode'] == 'Indexed'
  # The first failing pod ends the Job, and the JobSet makes it again, except
  # after a status for which a restart does not help.
  assert job['backoffLimit'] == 0 and pod['restartPolicy'] == 'Never'
  disrupted, failed = job['podFailurePolicy']['rules']
  assert disrupted == {
    'action': 'Count',
    'onPodConditions': [{'type': 'DisruptionTarget', 'status': 'True'}],
  }
  assert failed == {
    'action': 'FailJob',
    'onExitCodes': {
      'containerName': container['name'],
      'operator': 'NotIn',
      'values': RESTART,
    },
  }
  assert pod['terminationGracePeriodSeconds'] >= 60

  assert pod['serviceAccountName'] == account['metadata']['name']
  check_command(container['command'])
  assert '--coordinator=auto' in container['command']
  (volume,) = pod['volumes']
  assert container['volumeMounts'] == [
    {'name': volume['name'], 'mountPath': '/mnt/bucket'}
  ]
  attributes = volume['csi']['volumeAttributes']
  assert attributes['bucketName'] == 'BUCKET'  # to be replaced
  worker = (LAUNCH / 'worker.sh').read_text()
  for option in attributes['mountOptions'].split(','):
    name, _, value = option.rpartition(':')
    # As on a TPU VM: a file's `a:b: v` is the flag `--a-b=v`, or `--b=v`.
    assert (
      f'--{name.replace(":", "-")}={value}' in worker
      or f'--{name.split(":")[-1]}={value}' in worker
      or f'--{option} ' in worker
    ), option


def test_the_statuses_are_the_same_everywhere():
  script = (LAUNCH / 'tpu_vm.sh').read_text()
  assert f"RESTART=' {' '.join(map(str, RESTART))} '" in script
