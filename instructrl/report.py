"""Makes the report of a study, or of an evaluation, from its files.

  python -m instructrl.report WORKDIR

writes `WORKDIR/report/results.json` (every number, for programs) and
`WORKDIR/report/index.html` (one self-contained page, for people), and prints
the win rates. WORKDIR is a study or a run of the stage `evaluation`, such as
one that judges a variant beside the policies of a study. The report can be
made again at any time; `reports/study_files.py` lists what it reads.
"""

import argparse

from instructrl.runtime import exits


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.report', description=__doc__.split('\n')[0]
  )
  parser.add_argument(
    'workdir', help='folder of a finished study, or of a run of `evaluation`'
  )
  args = parser.parse_args(argv)
  from instructrl.reports import headline
  from instructrl.reports import report  # imports matplotlib
  from instructrl.runtime import command
  from instructrl.runtime import typed

  command.setup_output()

  def make():
    page = report.make_report(typed.path(args.workdir))
    print(headline.ending(page), flush=True)

  return command.status_of(make)


if __name__ == '__main__':
  exits.leave(main())
