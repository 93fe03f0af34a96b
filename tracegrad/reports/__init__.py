"""Tables of the results of runs.

Reading: `results`, `samples`, `metrics_file`, `acceleration`, `inference`, `manifest` (plans of sweeps).
Tables: `comparison` makes a `table` of rows and `columns` from runs that are `compatible`, with the samples of the
`challenge`; `paired` and `relative` are differences between arms; `paper` has the published numbers, `absent` what a
report lacks of them, `check` the expected numbers.
Writing: `grid` is the common form for `terminal`, `markdown` and `latex`; `comma_separated` writes CSV, `structured`
JSON.
"""
