"""Forty labelers at once on 10,000 prompts.

  python -m tests.feedback.load_test

prints the time of an action as a labeler sees it, and the time of the server's
processor, which does not depend on what else the machine does.
"""

import asyncio
import os
import pathlib
import random
import statistics
import tempfile
import time

import httpx2
import pytest

from instructrl.feedback import exports
from tests.feedback import labeling

LABELERS, PROMPTS, LABELS_EACH, K = 40, 10_000, 5, 4
PAUSE = 2.0  # mean seconds between two actions of a labeler: quick people


def cpu_seconds(process):
  fields = pathlib.Path(f'/proc/{process.pid}/stat').read_text().split()
  return (int(fields[13]) + int(fields[14])) / os.sysconf('SC_CLK_TCK')


async def labeler(address, token, seconds):
  """Ranks prompts with an autosave of each rank; appends each time taken."""

  async def timed(method, path, **form):
    await asyncio.sleep(random.expovariate(1 / PAUSE))
    start = time.perf_counter()
    reply = await client.request(
      method, path, data=form or None, headers={'Accept-Encoding': 'identity'}
    )
    reply.raise_for_status()
    seconds.append(time.perf_counter() - start)
    return reply

  async with httpx2.AsyncClient(
    base_url=address, follow_redirects=True, timeout=60
  ) as client:
    await asyncio.sleep(random.uniform(0, 5))  # they share one address here
    page = await client.get(f'/join/{token}')
    form = labeling.fields_in(page.text)
    page = await client.post(f'/join/{token}', data=form)
    page.raise_for_status()
    for _ in range(LABELS_EACH):
      path = page.url.path
      form = labeling.fields_in(page.text)
      for place in range(K):
        form[f'rank-{place}'] = str(random.randint(1, K))
        await timed('POST', '/save' + path[len('/items') :], **form)
      page = await timed('POST', path, **form, action='next')


def measure(folder):
  """Returns what the load test measured."""
  labeling.make(folder, labeling.rows(PROMPTS, K))
  desk = labeling.open_desk(folder)
  tokens = [desk.invite(f'labeler {i}') for i in range(LABELERS)]
  seconds = []
  with labeling.server(folder) as (address, _, process):
    before = cpu_seconds(process)

    async def everyone():
      await asyncio.gather(*(labeler(address, t, seconds) for t in tokens))

    asyncio.run(everyone())
    cpu = cpu_seconds(process) - before
  labels = exports.rankings(labeling.open_desk(folder))
  return {
    'actions': len(seconds),
    'labels': len(labels),
    'different prompts': len({label.prompt.id for label in labels}),
    'median ms': 1e3 * statistics.median(seconds),
    '95% below ms': 1e3 * sorted(seconds)[int(0.95 * len(seconds))],
    'server CPU ms an action': 1e3 * cpu / len(seconds),
  }


@pytest.mark.slow
def test_forty_labelers_lose_nothing_and_do_not_wait(tmp_path):
  found = measure(tmp_path / 'p')
  assert found['labels'] == found['different prompts'] == 200
  assert found['actions'] == 200 * (K + 1)
  # The time of the processor: the median depends on the machine's other work.
  assert found['server CPU ms an action'] < 50, found


if __name__ == '__main__':
  with tempfile.TemporaryDirectory() as name:
    for what, value in measure(pathlib.Path(name) / 'p').items():
      print(f'{what:24} {value:,.1f}')
