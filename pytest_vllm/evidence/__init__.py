"""Off-line verbs about runs that are over: report, compare, runs, trend, promote, verify."""
