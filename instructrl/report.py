"""Makes the report of a study from the files in its folder.

  python -m instructrl.report WORKDIR

writes `WORKDIR/report/results.json` (every number, for programs) and
`WORKDIR/report/index.html` (one self-contained page, for people). The report
can be made again at any time; `reports/study_files.py` lists what it reads.
"""

import argparse

from instructrl.runtime import exits


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(
    prog='python -m instructrl.report', description=__doc__.split('\n')[0]
  )
  parser.add_argument('workdir', help='folder of a finished study')
  args = parser.parse_args(argv)
  from instructrl.reports import report  # imports matplotlib
  from instructrl.runtime import command
  from instructrl.runtime import typed

  command.setup_output()
  make = lambda: print(report.make_report(typed.path(args.workdir)))
  return command.status_of(make)


if __name__ == '__main__':
  exits.leave(main())
