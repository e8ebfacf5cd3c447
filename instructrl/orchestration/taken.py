"""Takes finished runs of another folder, instead of running them again.

A run is taken if it has the same config and started from files with the same
digests. Paths do not count: a stage of a study may be a run of a sweep.
"""

import os
import pathlib
import shutil

from instructrl.orchestration import graph
from instructrl.runtime import contents
from instructrl.runtime import files
from instructrl.runtime import origins
from instructrl.runtime import run_folder
from instructrl.stages import checks
from instructrl.stages import inputs
from instructrl.stages import registry
from instructrl.stages import runner

# Files of a run that the new folder gets of its own.
_OWN = {
  run_folder.CONFIG,
  run_folder.DONE,
  run_folder.LOCK,
  origins.INPUTS,
  'log.txt',
}


class Finished:
  """The finished runs of a folder."""

  def __init__(self, source: str | os.PathLike):
    """Finds the runs.

    Args:
      source: the folder of a study, or of the runs of a sweep.

    Raises:
      ConfigError: there is no finished run in it.
    """
    source = pathlib.Path(source)
    self._runs = [
      folder
      for folder in (sorted(source.iterdir()) if source.is_dir() else ())
      if (folder / run_folder.CONFIG).is_file()
      and (folder / run_folder.DONE).is_file()
    ]
    checks.require(
      bool(self._runs),
      f'--from={source}: there is no finished run in this folder: name that of '
      'a study or of a sweep',
    )

  def take(self, node: graph.Node, workdir) -> pathlib.Path | None:
    """Makes the folder of a node from a run, if one is the same.

    The files are linked where the disk allows that, else copied.

    Args:
      node: its inputs are finished.
      workdir: the folder of the node's folder.

    Returns:
      The run; None if no run is the same, or if the node has begun.
    """
    folder = pathlib.Path(workdir) / node.name
    if (folder / run_folder.CONFIG).exists():
      return None
    config = registry.resolve(node.config, folder)
    paths = {
      key: inputs.input_path(config, folder, name, group)
      for key, (group, name) in inputs.paths(config).items()
    }
    listed = {**paths, **registry.sources(config)}
    started_from = {
      name: _digests(contents.listing(path, run_folder.sealed_files(path)))
      for name, path in listed.items()
    }
    code = runner.user_code(config)
    for run in self._runs:
      if _same(run, config.to_dict(), started_from, code):
        _make(folder, run, config.to_dict(), paths, listed, code)
        return run
    return None


def _same(run: pathlib.Path, config, started_from, code) -> bool:
  """Returns whether a run computed what a config computes."""
  if _without_paths(files.read_json(run / run_folder.CONFIG)) != _without_paths(
    config
  ):
    return False
  recorded = origins.read_inputs(run)
  found = {n: _digests(listing) for n, listing in recorded['contents'].items()}
  same_code = all(
    recorded['identities'].get(name) == value for name, value in code.items()
  )
  return found == started_from and same_code


def _make(folder, run, config, paths, listed, code) -> None:
  """Makes a run folder with the files of a finished run.

  A kill leaves no half of it: the folder gets its name at the end.
  """
  run_folder.check_files(run)
  part = folder.with_name(f'.{folder.name}.partial')
  shutil.rmtree(part, ignore_errors=True)
  names = lambda path, found: [
    name
    for name in found
    if name.startswith('.') or (path == str(run) and name in _OWN)
  ]
  shutil.copytree(run, part, ignore=names, copy_function=_link)
  run_folder.write_config(part, config)
  sources = {name: path for name, path in listed.items() if name not in paths}
  origins.check(part, paths, sources=sources, code=code)
  recorded = origins.read_inputs(run)['identities']
  for name in {*recorded} - {*paths, *code}:  # what the run found in its inputs
    origins.add(part, name, recorded[name])
  run_folder.write_done(part, run_folder.read_done(run) or {})
  if folder.is_dir():  # of a start that wrote its log only
    shutil.rmtree(folder)
  part.rename(folder)


def _link(source: str, target: str) -> None:
  try:
    os.link(source, target)
  except OSError:  # another disk, or one without links
    shutil.copy2(source, target)


def _digests(listing) -> dict[str, list]:
  """Returns a listing without times, and without the paths in inputs.json."""
  return {n: entry[:2] for n, entry in listing.items() if n != origins.INPUTS}


def _without_paths(config) -> dict:
  """Returns what a config computes, without where its inputs are."""
  config = run_folder.fixed_part(config)
  for key, (group, name) in inputs.paths(config).items():
    fields = config
    for part in group.split('.'):
      fields = fields[part]
    fields[name] = key
  return config
