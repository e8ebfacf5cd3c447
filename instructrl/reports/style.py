"""The style sheet of the report's page: one column, light and dark."""

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2128;
  --soft: #57606a; --line: #d5dae1; --card: #f5f7f9;
  --good: #0a6e46; --bad: #b3261e; --open: #7a5600; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b;
  --ink: #e4e8ec; --soft: #9aa4af; --line: #343b44; --card: #1c2127;
  --good: #4cc38a; --bad: #ff8a80; --open: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1060px; padding: 1rem; background:
  var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; padding-top: .8rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .4rem 0; }
.soft { color: var(--soft); }
.small { font-size: .87rem; }
.figure { display: grid; grid-template-columns: minmax(0, 1fr); gap: .8rem; }
.figure svg { width: 100%; max-width: 560px; height: auto; display: block; }
.paper { background: var(--card); border-left: 3px solid var(--line);
  padding: .5rem .8rem; font-size: .87rem; align-self: start; }
@media (min-width: 860px) {
  .figure { grid-template-columns: minmax(0, 560px) minmax(0, 1fr);
    gap: 1.6rem; } }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .7rem .35rem
  0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.shown, .not-shown, .undecided { font-weight: 600; white-space: nowrap; }
.shown { color: var(--good); } .not-shown { color: var(--bad); }
.undecided { color: var(--open); }
.whole { white-space: nowrap; }
/* Tables of figures are wider than a phone: they scroll. */
.wide { overflow-x: auto; }
.wide th, .wide td { overflow-wrap: normal; }
.note { max-width: 14rem; color: var(--soft); font-size: .87rem; }
.failure { color: var(--bad); } .kept { color: var(--good); }
.not-measured { color: var(--soft); white-space: nowrap; }
@media (max-width: 640px) {
  .number { white-space: normal; }
  .note { max-width: none; }
  .rows thead { display: none; }
  .rows tr { display: block; padding: .5rem 0; border-bottom: 1px solid
    var(--line); }
  .rows td { display: block; border: 0; padding: .05rem 0; }
  .rows th { display: block; border: 0; padding: .4rem 0 0; }
  .rows td[data-label]::before { content: attr(data-label) ": ";
    color: var(--soft); } }
.sample { border: 1px solid var(--line); border-radius: 6px; padding: .8rem;
  margin: .8rem 0; }
.prompt { background: var(--card); padding: .5rem .7rem; white-space:
  pre-wrap; }
.answers { display: grid; gap: .8rem; margin-top: .8rem;
  grid-template-columns: repeat(auto-fit, minmax(168px, 1fr)); }
.answer { border-top: 4px solid; padding-top: .3rem; }
.answer .text { white-space: pre-wrap; font-size: .9rem; }
pre { white-space: pre-wrap; background: var(--card); padding: .8rem;
  font-size: .8rem; }
a { color: inherit; }
"""
