"""The words of `docs/regression-gate.md`."""

from __future__ import annotations

BEFORE = """
# The regression gate

Generated from `tests/data/gate/` by `./dev docs`; a test keeps it fresh. It says when figures
count as slower, and how often that was right where the truth was known.

## The rule

The unit is a whole run with its own warm-up, never a request: requests of one run share its luck.

**Strong form** (`pytest-vllm ab`): base and candidate in turns on one host, pairs in the order
A B B A, each block begun with either side by chance. Of each pair and metric d = log(candidate /
base), signed so that above 0 is slower. Holm's adjustment is over the gated metrics.

| | |
|---|---|
| estimate | Hodges-Lehmann: median of all means of two d |
| p | Wilcoxon's signed-rank test: one-sided, exact also with ties and zeros (Pratt); Holm |
| bounds | Walsh averages, 95 % on each side |
| could see | MDE80 = 2.8 x 1.48 x MAD(d) / sqrt(pairs): the change found in 80 % of cases |
| **worse** | estimate past the tolerance and p at most 0.025 (0.01: see below) |
| **better** | the same with the sides swapped |
| **no change** | upper bound and MDE80 inside the tolerance: surely no slower than is allowed |
| **cannot tell** | all else: from 6 pairs two more up to 12; then with the number that would tell |

Where MDE80, outliers counted, is more than 1.2 tolerances, the tolerance keeps out no chance
finding, and up to four looks at 0.025 made 3 % of false alarms: there p must be at most 0.01. That
0.01 was chosen on the simulated hosts below, so their false alarms are no independent proof of it.
truth-shared.jsonl was collected before it: its A/A was judged anew, and three comparisons that
would have gone on were made again. truth-quiet.jsonl and the CPU series of vLLM came after it.

Tolerances: 3 % of output tokens/s and of the median TPOT, 5 % of the median TTFT (from the schedule
when requests come at a rate), 10 % of p99 of TTFT and TPOT, which is gated only where every run had
the 662 requests that a p99 needs. `[slo.change]` of a profile, `--change` of `ab` and `--allow` of
`compare` change them. A tolerance t is of the time that work takes: a latency may grow to 1 + t of
what it was, and a rate, of which more is better, may fall to 1 / (1 + t): 10 % allow -9.09 % and
50 % allow -33.3 %; tables and plots show that. What is named there is never left out, nor are
tokens/s and the medians: where no run has the figure (no usage, too few requests for the
percentile), it is *cannot tell*, with the reason. Only replies of one token need no TPOT.

**Weak form** (`--vllm-baseline`, `pytest-vllm compare`): five rounds or more of this run against
those of a run of another time. Welch's interval of 95 % of the log ratio, each side's level known
as well as one of its rounds: its variance is s^2 (1 + 1/n), not s^2 / n, as if runs differed by as
much as the rounds of one do. **worse** when the whole interval lies past the tolerance; **no
change** when all of it lies on this side; else **cannot tell**. The tolerance is 10 % or more: even
where less is allowed (`[slo.change]`, `--allow`), 10 % hold, and the row says so: `(not 0.5 %)`.
What the host itself changed in the meantime counts as the candidate's.

Nothing is compared, and the reason is named, when the two have other GPUs, another driver, model,
revision, vLLM arguments, workload or prompts, when more than 0.1 % of the requests failed, when the
client was the limit, when the clock was set during a run, or when the requests got other numbers of
tokens. A run without a baseline says that nothing was compared.

A rate below is followed by Wilson's interval of 95 %. *worse* at 0 % is a false alarm, *no change*
at 10 % a slowdown that was let through.

## In short: the strong form

Sides that are the same were wrongly called *worse* in this share of comparisons, and sides slower
by so much were found in those; the sections below have the rest. Comparisons of the truth server
and of simulated hosts are each of runs of their own. Series of vLLM are cut into windows that share
no run; each is judged in both labelings at A/A, so that two of those share their runs.
"""

OVERLAPPING = """
The same series cut into every window of 12 pairs. **These overlap**: neighbours share most of their
runs, so the intervals are far too narrow, and the counts are no proof by themselves.
"""

TRUTH = """
## Strong form: real runs, known slowdowns

`python -m tools.gate.collect`: our client loads the built-in truth server, whose speed has the
noise of a GPU host from run to run: white 1 %, AR(1) drift 2 %, 3 % of runs slowed by something
else by 10 % in the mean, 5 % from step to step. What the host does comes on top. The candidate's
server is slower by a known factor. Every comparison is made of runs of its own, in turns, as `ab`
makes them; its verdict is judged anew from the record when this page is made. Minutes are of one
comparison. Unlike those of `ab`, these runs have no warm-up: the truth server has nothing to warm.
The first row above pools all of it.
"""

RECORDED = """
## Strong form: real vLLM

`python -m tools.gpu.series`: one server; each block has two runs at full speed and one of each
slowdown (a middleware stretches every reply, `tests/data/slowdown`), in random order. A block's two
runs at full speed make a pair of an A/A comparison, one of them with a slowed one a pair of an A/B;
a comparison is 6 to 12 blocks in a row. A series at full speed only is taken as A B B A. A/A is
judged in both labelings. Windows that share no run are independent and few; of all windows
neighbours share most runs, so their intervals are too narrow. CV and correlation are of the runs at
full speed, in the order of time. The middleware rounds to milliseconds: on short steps a slowdown
of 2 % comes out larger.
"""

SIMULATED = """
## Strong form: simulated hosts

`python -m tools.gate.simulate`: {what}.
Three metrics are gated. Standard deviations of a run's logarithm, white / per metric (TTFT twice) /
AR(1) drift with correlation 0.95: quiet GPU host 0.5 / 0.3 / 1 %, GPU host 1 / 0.5 / 2 %, shared
GPU host 2 / 1 / 4 %, shared CPU host 5 / 2 / 8 %; 3 % of runs are slowed by something else, by 10 %
in the mean.
"""

WEAK = """
## Weak form

The same simulated hosts, five rounds a side, tolerance 10 %; the two runs are of days that differ
by a further 0 to 8 % (standard deviation). *worse* may reject: it stays below 2 % of false alarms
where days differ by up to twice what rounds do. Where they differ by more, no rule on rounds can
know it. With Welch's plain interval, s^2 / n, it was 4 % where days differ by 4 %, and 14 % on a
host whose drift is twice its noise (600 simulated comparisons each). Of 20 % about every second
slowdown is found on such hosts, of 10 % few: that is what the strong form is for.
"""

LIMITS = """
**What the weak form cannot do.** With the tolerance of 10 % and five rounds a side, an unchanged
run on a noisy host is often *cannot tell*, and so INCONCLUSIVE, not promoted. Of unchanged runs:

{lines}

There more rounds help little, since the level of a whole run differs from one run to the next. Use
`ab`, or allow more by `[slo.change]`, or give the loads longer rounds or a quieter host.
"""

AFTER = """
## What follows

- The strong form decides: it rejects at its false-alarm rate above, and finds 5 % on hosts whose
  runs vary by 2 % or less. On noisier hosts it says *cannot tell*, and how many pairs would; longer
  runs lower the noise of each.
- `pytest-vllm compare BASE CANDIDATE` compares [two runs](runs.md#compare), or two folders of files
  of `pytest-vllm load --json`, each file a round. Exit code 0: nothing is worse; 1: a check broke
  or a metric is worse; 75: it cannot be told, or the two cannot be compared.
- `pytest-vllm ab --aa N` measures this rate on your own host.
- A *worse* of the weak form rejects (`--vllm-regression=warn` only warns); *cannot tell* is no
  pass. Where days differ a lot, trust only what `ab` confirms.
"""
