"""What the record of a run and its registry hold against a promotion."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest

from pytest_vllm.domain.checks import Level, Outcome
from pytest_vllm.domain.errors import TargetError
from pytest_vllm.domain.promoted_image import (
    RegistryView,
    accepted_image,
    asked_tag,
    image_refusals,
    known_in,
    other_image,
)
from pytest_vllm.domain.promotion import evidence_refusals, read_age
from pytest_vllm.domain.record import Material, Rules, RunRecord, WaiverUse
from pytest_vllm.domain.refusal import Refusal
from pytest_vllm.domain.repository import ImageName, PinnedName, Repository, TaggedName
from pytest_vllm.domain.verdict import Decision, Verdict
from tests.unit.records import (
    DIGEST,
    SUITES,
    all_passed,
    make_check,
    make_failure,
    make_record,
    make_result,
)

STARTED = dt.datetime(2026, 11, 22, 18, 19, 30, tzinfo=dt.UTC)
NOW = STARTED + dt.timedelta(days=1)
WEEK = dt.timedelta(days=7)
OTHER = "sha256:" + "12" * 32
MATERIALS = tuple(
    Material(kind=kind, name=kind, sha256="ab" * 32) for kind in ("profile", "suite", "compose")
)


def promotable(**changes: Any) -> RunRecord:
    """Make the record of a run that nothing speaks against."""
    results = changes.get("results", all_passed())
    required = tuple(result.check.id for result in all_passed())
    rules = Rules(profile="promote", complete=True, pinned_image=True, required=required)
    return replace(make_record(results), **{"rules": rules, "materials": MATERIALS, **changes})


def said(record: RunRecord, **changes: Any) -> list[str]:
    """List what speaks against a record, each with its way out."""
    found = evidence_refusals(record, **{"now": NOW, "max_age": WEEK, **changes})
    assert all(refusal.cure for refusal in found)
    return [refusal.message for refusal in found]


def waiver(**changes: Any) -> WaiverUse:
    fields = {
        "check": "chat.point1.holds",
        "reason": "known",
        "link": "https://example.com/1",
        "expires": "2026-11-23",
        "waived": ("chat.point1.holds",),
    }
    return WaiverUse(**{**fields, **changes})


def waived() -> RunRecord:
    """Make the record of a run with one waived check."""
    results = tuple(
        replace(result, outcome=Outcome.WAIVED) if result.name == "chat.point1.holds" else result
        for result in all_passed()
    )
    return promotable(results=results, waivers=(waiver(),))


def test_nothing_speaks_against_a_complete_pinned_recent_promote() -> None:
    assert said(promotable()) == []
    assert said(waived()) == []
    assert said(promotable(), catalogue=[make_check("chat.point1.holds")]) == []


@pytest.mark.parametrize("decision", [Decision.REJECT, Decision.INCONCLUSIVE])
def test_another_verdict_is_refused_with_its_reason(decision: Decision) -> None:
    verdict = Verdict(decision=decision, reasons=("chat.x: no\nanswer",))
    assert said(promotable(verdict=verdict)) == [
        f"the verdict of the run is {decision}: chat.x: no answer"
    ]


def test_other_rules_are_refused_by_what_they_lack() -> None:
    rules = Rules(profile="mine.toml", required=("chat.point1.holds",))
    lacking = "the run was judged by profile mine.toml, which lacks "
    assert said(promotable(rules=rules)) == [f"{lacking}complete = true and pinned-image = true"]
    assert said(promotable(rules=replace(rules, complete=True))) == [
        f"{lacking}pinned-image = true"
    ]
    assert said(promotable(rules=replace(rules, complete=True, pinned_image=True))) == []
    (old,) = said(promotable(rules=None))
    assert "does not say by which rules" in old
    (none,) = said(promotable(rules=replace(promotable().rules, required=())))  # type: ignore[type-var]
    assert "required no check at all" in none


def test_a_required_check_without_a_result_is_named() -> None:
    results = all_passed()[2:]
    (missing,) = said(promotable(results=results, deselected=("server.point1.holds",)))
    assert missing == (
        "2 checks have no result, but the profile of the run requires them: server.point0.holds, "
        "server.point1.holds (deselected)"
    )


CATALOGUE = (
    make_check("chat.point1.holds"),
    make_check("chat.new.check"),
    make_check("chat.newer.check", level=Level.SHOULD),
    replace(make_check("chat.other.check"), optional=True),
)


def test_what_the_installed_version_requires_counts_too() -> None:
    (missing,) = said(promotable(), catalogue=CATALOGUE)
    assert missing == (
        "1 check has no result, but the installed pytest-vllm requires it: chat.new.check"
    )


@pytest.mark.parametrize("level", [Level.SHOULD, Level.INFO])
def test_a_must_that_was_made_less_is_refused(level: Level) -> None:
    """Else a failure could be made one that does not count."""
    less = make_result("chat.point1.holds", Outcome.FAIL, "no", level=level)
    results = tuple(less if r.name == less.name else r for r in all_passed())
    rules = Rules(profile="x", complete=True, pinned_image=True, required=("chat.point0.holds",))
    record = promotable(results=results, rules=rules)
    assert said(record) == []  # of an unknown version nobody can say what its checks are
    (lowered,) = said(record, catalogue=CATALOGUE[:1])
    assert lowered == (
        "1 check is MUST in the installed pytest-vllm, which is the version that ran, and less in "
        f"the run: chat.point1.holds ({level})"
    )


def test_the_verdict_is_drawn_again() -> None:
    says = "the run says PROMOTE, and what it holds makes"
    verdict = Verdict(decision=Decision.PROMOTE, reasons=("all is well",))
    (failed,) = said(promotable(verdict=verdict, failure=make_failure(message="it died")))
    assert failed == f"{says} REJECT: the server did not start: it died"
    (host,) = said(promotable(verdict=verdict, failure=make_failure(kind="host")))
    assert host.startswith(f"{says} INCONCLUSIVE: no server to test: ")
    absent = tuple(replace(r, outcome=Outcome.NOT_APPLICABLE) for r in all_passed())
    assert said(promotable(verdict=verdict, results=absent)) == [
        f"{says} INCONCLUSIVE: no MUST check passed, so nothing was shown"
    ]


def test_a_run_says_what_it_rests_on() -> None:
    assert said(promotable(materials=MATERIALS[2:])) == [
        "the run has no digest of what it rests on: profile, suite"
    ]
    unknown = replace(MATERIALS[1], sha256="", of="not known")
    assert said(promotable(materials=(*MATERIALS[::2], unknown))) == [
        "the run has no digest of what it rests on: suite"
    ]


INSTALLED = {f"suites/test_{name}.py": f"{number:064x}" for number, name in enumerate(SUITES)}


def by_suites(**digests: str) -> RunRecord:
    """Make a run with every bundled suite as it is installed, but for the changes."""
    found = {**INSTALLED, **{f"suites/test_{name}.py": given for name, given in digests.items()}}
    suites = [Material(kind="suite", name=name, sha256=given) for name, given in found.items()]
    own = Material(kind="suite", name="suites/test_mine.py", sha256="12" * 32)
    return promotable(materials=(*MATERIALS[::2], own, *suites))


def test_the_suites_are_those_of_the_version_that_ran() -> None:
    assert said(by_suites(), suites=INSTALLED) == []
    edited = by_suites(chat="ab" * 32)
    assert said(edited) == []  # of an unknown version nobody can say what its suites are
    (other,) = said(edited, suites=INSTALLED)
    assert other == (
        "the run did not use the suites of the installed pytest-vllm, which is the version that "
        "ran: suites/test_chat.py"
    )


def test_each_suite_with_required_checks_has_its_digest() -> None:
    """One digest of any file used to be enough."""
    (without,) = said(by_suites(chat="", stream=""), suites=INSTALLED)
    assert without == (
        "the run has no digest of suites whose checks it required: suites/test_chat.py, "
        "suites/test_stream.py"
    )
    (none,) = said(promotable(), suites=INSTALLED)
    assert none.endswith(
        "suites/test_completions.py, suites/test_chat.py, suites/test_stream.py and 1 more"
    )
    assert said(promotable(rules=None), suites=INSTALLED) == said(promotable(rules=None))


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.ERROR, Outcome.NOT_RUN])
def test_a_must_that_did_not_pass_is_refused_whatever_the_verdict_says(outcome: Outcome) -> None:
    bad = make_result("own.thing.holds", outcome, "no")
    verdict = Verdict(decision=Decision.PROMOTE, reasons=("all is well",))
    assert said(promotable(results=(*all_passed(), bad), verdict=verdict)) == [
        f"1 MUST check has not passed: own.thing.holds ({outcome})"
    ]
    should = make_result("own.thing.holds", outcome, "no", level=Level.SHOULD)
    assert said(promotable(results=(*all_passed(), should), verdict=verdict)) == []


def test_each_case_of_a_required_check_must_have_passed() -> None:
    case = make_result("chat.point1.holds", Outcome.NOT_RUN, "no", case="two", level=Level.SHOULD)
    (bad,) = said(promotable(results=(*all_passed(), case), verdict=promotable().verdict))
    assert bad.endswith("chat.point1.holds[two] (not run)")


def test_a_waiver_counts_to_the_end_of_its_last_day() -> None:
    last = dt.datetime(2026, 11, 23, 23, 59, tzinfo=dt.UTC)
    assert said(waived(), now=last) == []
    east = last.astimezone(dt.timezone(dt.timedelta(hours=9)))
    assert said(waived(), now=east) == []
    assert said(waived(), now=last + dt.timedelta(minutes=1)) == [
        "the waiver of chat.point1.holds expired on 2026-11-23 (today is 2026-11-24)"
    ]


def test_a_waiver_that_was_not_needed_or_has_no_date_is_refused() -> None:
    (unneeded,) = said(promotable(waivers=(waiver(waived=()),)))
    assert unneeded == (
        "the waiver of chat.point1.holds was not needed: no check failed that it waives"
    )
    (noted,) = said(promotable(waivers=(waiver(waived=(), note="the check passed"),)))
    assert noted == "the waiver of chat.point1.holds was not needed: the check passed"
    (dateless,) = said(replace(waived(), waivers=(waiver(expires="soon"),)))
    assert dateless == "the waiver of chat.point1.holds expires on 'soon', which is no date"
    (unknown,) = said(replace(waived(), waivers=()))
    assert unknown == "chat.point1.holds is waived, but the run has no waiver of it"
    others = said(replace(waived(), waivers=(waiver(check="chat.point0.holds"),)))
    assert unknown in others
    (bare,) = said(replace(waived(), waivers=(waiver(reason=" ", link=""),)))
    assert bare == "the waiver of chat.point1.holds has no reason and no link"
    (claimed,) = said(promotable(waivers=(waiver(),)))
    assert claimed == (
        "the waiver of chat.point1.holds was not needed: no check failed that it waives"
    )


def test_a_run_may_be_so_old_and_not_from_the_future() -> None:
    assert said(promotable(), now=STARTED + WEEK) == []
    assert said(promotable(), now=STARTED + WEEK + dt.timedelta(hours=12)) == [
        "the run is 7.5 days old, and 7 days are allowed"
    ]
    assert said(promotable(), now=STARTED + dt.timedelta(hours=2), max_age=dt.timedelta(hours=1))
    assert said(promotable(), now=STARTED - dt.timedelta(minutes=4)) == []
    (future,) = said(promotable(), now=STARTED - dt.timedelta(hours=3))
    assert future == "the run began 3 hours from now, at 2026-11-22T18:19:30+00:00"


@pytest.mark.parametrize("started", ["", "yesterday", "2026-11-22T18:19:30", "2026-13-01T00:00Z"])
def test_a_time_that_cannot_be_read_is_refused(started: str) -> None:
    (refused,) = said(promotable(started=started))
    assert "which is no time with a zone" in refused


def test_all_that_speaks_against_a_run_is_said_together() -> None:
    record = promotable(
        verdict=Verdict(decision=Decision.REJECT, reasons=()),
        rules=Rules(profile="default"),
        results=(make_result(outcome=Outcome.FAIL),),
        waivers=(waiver(expires="2020-01-01", waived=()),),
        started="2026-01-01T00:00:00+00:00",
    )
    found = evidence_refusals(record, now=NOW, max_age=WEEK)
    words = [" REJECT:", " default, ", "MUST check", " expired ", " not needed:", " days old"]
    assert [word in refusal.message for word, refusal in zip(words, found, strict=True)] == [
        True
    ] * 6
    assert str(found[0]).startswith("the verdict of the run is REJECT: no reason is given\n  fix: ")


@pytest.mark.parametrize(
    ("text", "length"),
    [("30m", dt.timedelta(minutes=30)), ("12h", dt.timedelta(hours=12)), ("2w", 2 * WEEK)],
)
def test_an_age_is_a_number_and_a_unit(text: str, length: dt.timedelta) -> None:
    assert read_age(text, what="--max-age") == length


@pytest.mark.parametrize("text", ["", "7", "d", "0d", "-1d", "7 d", "1.5h", "7days", "9999999d"])
def test_what_is_no_age_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="--max-age: .* is no duration"):
        read_age(text, what="--max-age")


def image_of(**launch: Any) -> PinnedName | Refusal:
    return accepted_image(replace(make_record(), launch=launch))


def test_the_accepted_image_is_the_digest_that_ran() -> None:
    image = image_of(image={"runs": f"localhost:5000/vllm@{DIGEST}", "asked": "x:1"})
    assert str(image) == f"localhost:5000/vllm@{DIGEST}"


@pytest.mark.parametrize(
    ("launch", "words"),
    [
        ({}, "by its image ID only"),
        ({"image": None}, "by its image ID only"),
        ({"image": ["a"]}, "by its image ID only"),
        ({"image": {"runs": DIGEST, "asked": "vllm:1"}}, "knows vllm:1 by its image ID only"),
        ({"image": {"runs": 7}}, "by its image ID only"),
        ({"image": {"runs": "vllm@sha256:12"}}, "names no digest of a registry"),
        ({"image": {"runs": f"UPPER/x@{DIGEST}"}}, "is no repository"),
    ],
)
def test_a_run_without_a_digest_of_a_registry_has_no_image(
    launch: dict[str, Any], words: str
) -> None:
    refusal = image_of(**launch)
    assert isinstance(refusal, Refusal)
    assert words in refusal.message
    assert refusal.cure


@pytest.mark.parametrize("backend", ["attach", "process"])
def test_a_server_that_came_from_no_image_cannot_be_promoted(backend: str) -> None:
    refusal = accepted_image(replace(make_record(), backend=backend))
    assert isinstance(refusal, Refusal)
    assert f"from the backend {backend}" in refusal.message


@pytest.mark.parametrize(
    ("asked", "tag"),
    [
        ("localhost:5000/vllm:1", "localhost:5000/vllm:1"),
        (f"localhost:5000/vllm:1@{DIGEST}", "localhost:5000/vllm:1"),
        (f"localhost:5000/vllm@{DIGEST}", None),
        (DIGEST, None),
        ("[::1]:5000/vllm:1", "[::1]:5000/vllm:1"),
        ("localhost:5000/vllm", "localhost:5000/vllm:latest"),
    ],
)
def test_the_tag_that_was_asked_for_is_looked_up_again(asked: str, tag: str | None) -> None:
    host = "[::1]:5000" if asked.startswith("[") else "localhost:5000"
    image = PinnedName.parse(f"{host}/vllm@{DIGEST}", what="run")
    found = asked_tag(replace(make_record(), launch={"image": {"asked": asked}}), image)
    assert (None if found is None else str(found)) == tag


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        *((asked, "no name of an image") for asked in (None, 7, "", "UP/x:1", "h:1/vllm:", "a b")),
        ("h:1/vllm:rc@sha256:12", "no name of an image"),
        ("h:1/other:rc", "accepted an image of h:1/vllm"),
        ("vllm:rc", "accepted an image of h:1/vllm"),
        (f"h:1/vllm@{OTHER}", f"accepted {DIGEST}"),
        (OTHER, f"accepted {DIGEST}"),
    ],
)
def test_a_name_that_does_not_lead_to_what_ran_is_refused(asked: object, words: str) -> None:
    """Else nobody would look what it names now."""
    image = PinnedName.parse(f"h:1/vllm@{DIGEST}", what="run")
    refusal = asked_tag(replace(make_record(), launch={"image": {"asked": asked}}), image)
    assert isinstance(refusal, Refusal)
    assert words in refusal.message


def test_a_moved_tag_and_an_image_that_is_gone_are_refused() -> None:
    image = PinnedName.parse(f"h:1/a@{DIGEST}", what="run")
    tag = TaggedName.parse("h:1/a:rc", what="run")
    fine = RegistryView(present=True, tag=tag, tag_digest=DIGEST)
    assert image_refusals(image, fine) == ()
    assert image_refusals(image, RegistryView(present=True)) == ()
    (moved,) = image_refusals(image, replace(fine, tag_digest=OTHER))
    assert moved.message == (
        f"h:1/a:rc, which the run was asked for, names {OTHER} now; the run accepted {DIGEST}"
    )
    (gone,) = image_refusals(image, replace(fine, tag_digest=""))
    assert "h:1/a:rc, which the run was asked for, is gone" in gone.message
    (absent,) = image_refusals(image, RegistryView(present=False))
    assert absent.message == f"h:1/a does not have {DIGEST}, which the run accepted"


@pytest.mark.parametrize(
    ("meant", "words"),
    [
        (DIGEST, ""),
        (f"rocm/vllm@{DIGEST}", ""),
        (f"docker.io/rocm/vllm:0.32.0@{DIGEST}", ""),
        ("rocm/vllm:0.32.0", ""),
        (OTHER, f"rocm/vllm@{DIGEST} ran, and {OTHER} is meant"),
        (f"h:1/vllm@{DIGEST}", f"rocm/vllm@{DIGEST} ran, and h:1/vllm@{DIGEST} is meant"),
        (
            f"rocm/vllm:1@{DIGEST}",
            "the run was asked for rocm/vllm:0.32.0, and docker.io/rocm/vllm:1@sha256:",
        ),
        ("rocm/vllm", "and docker.io/rocm/vllm:latest is meant"),
        ("[::1]:5/rocm/vllm:0.32.0", "and [::1]:5/rocm/vllm:0.32.0 is meant"),
    ],
)
def test_another_image_than_the_one_that_ran_is_told(meant: str, words: str) -> None:
    other = other_image(make_record(), ImageName.parse(meant, what="--image"))
    assert words in other
    assert bool(words) == bool(other)
    assert other_image(replace(make_record(), launch={}), ImageName.parse(meant, what="x"))


def test_the_image_is_looked_for_where_it_goes_first() -> None:
    image = PinnedName.parse(f"h:1/a@{DIGEST}", what="run")
    digests = [f"h:1/b@{DIGEST}", f"h:1/c@{OTHER}", f"g:1/d@{DIGEST}", f"UP@{DIGEST}", 7]
    to = Repository.parse("h:1/new", what="--to")
    assert [str(known) for known in known_in(to, image, digests)] == ["h:1/new", "h:1/a", "h:1/b"]
    to = Repository.parse("g:1/new", what="--to")
    assert [str(known) for known in known_in(to, image, digests)] == ["g:1/new", "g:1/d"]
