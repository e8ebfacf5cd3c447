"""Reports: checks against the paper, plots, tables and HTML pages."""
