"""What a report says once students were trained again: values side by side, gains, what did not work.

Goes in: a `SweepRecord` and its `Confirmation`, None before there is one. Comes out: blocks; every number
comes from `confirmation` and `against_floor`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Set

from kdsearch import against_floor, pairing, results, statistics, words
from kdsearch.comparison_chapter import RULE
from kdsearch.confirmation import Confirmation, Student
from kdsearch.document import Block, Bullets, Heading, Paragraph, Picture, Table, literal
from kdsearch.records import SweepRecord
from kdsearch.statistics import CONFIDENCE, Estimate

PLAIN = "plain KD (T = 4, alpha = 0.9)"
LIKELY = 0.5  # of p_on_front: below it a student is more likely off the front than on it


def confirmed(sweep: SweepRecord, found: Confirmation | None, figure: Picture | str) -> list[Block]:
    """The front of record, and beside it what the search had promised. Nothing before the first repeat."""
    if found is None:
        return []
    return [
        Heading("The confirmed front" if found.is_complete else "The front, partly confirmed"),
        Paragraph(_what_was_done(sweep, found)),
        Paragraph(_bias(found)),
        Paragraph(figure) if isinstance(figure, str) else figure,
        _table(sweep, found),
        Paragraph(_how_to_read(sweep, found)),
        Bullets(tuple(_findings(found))),
    ]


def _what_was_done(sweep: SweepRecord, found: Confirmation) -> str:
    counts = sorted({student.validation.n for student in found.students})
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    others = [student.record.student_id for student in found.students if not student.was_on_front]
    extra = len(_near(sweep).intersection(others))
    earlier = len(others) - extra
    near = f" and {_many(extra, 'contender')} within noise of it" if extra else ""
    gone = f" and {earlier} that an earlier confirmation had chosen" if earlier else ""
    fresh = f"{seeds} fresh {'seed' if seeds == '1' else 'seeds'}"
    text = (
        f"{_many(len(found.of_search), 'student')} of the search's front{near}{gone} were trained again to "
        f"the end with {fresh} each: other initial weights, order and views. Confirmed is the mean "
        "validation accuracy of these repeats; the search's own run is not in it, because it was chosen for "
        "being good."
    )
    if found.is_complete:
        return f"{text} The front of record, in `pareto.csv` and for `pick`, goes by these means."
    missing = words.listed([trial.student_id for trial in found.unrepeated])
    return f"{text} Still without a repeat: {missing}; until then the front of record is the search's."


def _bias(found: Confirmation) -> str:
    bias = found.bias
    if bias is None:
        return "No student of the search's front has been repeated yet."
    side = "higher" if bias >= 0 else "lower"
    text = (
        f"Selection bias: over {_many(len(found.of_search), 'student')} of the search's front, the accuracy "
        f"that they were chosen by is {abs(100 * bias):.2f} points {side} on average than that of their "
        "repeats."
    )
    below = [student.validation.mean - student.test.mean for student in found.of_search if student.test]
    if below:
        gap = 100 * math.fsum(below) / len(below)
        side = "below" if gap >= 0 else "above"
        text += f" On the test split the repeats are another {abs(gap):.2f} points {side} that."
    return text


def _table(sweep: SweepRecord, found: Confirmation) -> Table:
    values = ("params", "seeds", "search", "confirmed", "test", f"no KD ({found.split})", "gain")
    judged = (f"{CONFIDENCE:.0%} interval", "verdict", "over plain KD", "its verdict", "p on front")
    header = ("student", "front", *values, *judged)
    near = _near(sweep)
    return Table(header, "llrrrrrrrrlrlr", tuple(_cells(student, found, near) for student in found.students))


def _near(sweep: SweepRecord) -> set[str]:
    """Students on the search's front or within noise of it, as the search stands now."""
    return {trial.student_id for trial in pairing.near_front(sweep)}


def _cells(student: Student, found: Confirmation, near: Set[str]) -> tuple[str, ...]:
    gain, over_kd = student.gain, student.gain_over_kd
    return (
        student.record.student_id,
        _place(student, found.is_complete, near),
        f"{student.record.cost['params']:,}",
        str(student.validation.n),
        f"{results.accuracy(student.record):.4f}",
        _mean(student.validation),
        _mean(student.test),
        _mean(student.no_kd),
        points(gain.mean) if gain else "",
        interval(gain),
        student.verdict,
        points(over_kd.mean) if over_kd else "",
        student.verdict_over_kd,
        "" if student.p_on_front is None else f"{student.p_on_front:.2f}",
    )


def _place(student: Student, is_complete: bool, near: Set[str]) -> str:
    if student.was_on_front:
        return "on it" if not is_complete else "stayed" if student.is_on_front else "left"
    if is_complete and student.is_on_front:
        return "joined"
    return "near it" if student.record.student_id in near else "earlier"  # before the search went on


def _how_to_read(sweep: SweepRecord, found: Confirmation) -> str:
    variance, degrees = found.spread
    was_tuned = any(trial.purpose.startswith("tune") for trial in sweep.of_role("control"))
    recipe = "a learning rate and weight decay tuned for it" if was_tuned else "the same recipe"
    gain = (
        f"Gain is the {found.split} accuracy of a student less that of its no-KD control with the same "
        f"student, initial weights, order, views and epochs and {recipe}: the mean of paired differences in "
        "points."
    )
    if found.split == "validation":
        gain += " Without test accuracies it is on validation, where students were chosen."
    if not degrees:
        return f"{gain} One repeat each has neither an interval nor a probability. {RULE}"
    share = (
        " p on front is the share of random draws of all true means, given these spreads, in which no other "
        "repeated student is as small and as accurate; where many are near equals it is too low rather than "
        "too high."
    )
    return (
        f"{gain} ± is the standard deviation of a student's own repeats. Intervals are by the spread between "
        f"seeds pooled over all students, {100 * math.sqrt(variance):.2f} points for one validation accuracy "
        f"({degrees} degrees of freedom): two or three values say nothing of their own.{share} {RULE}"
    )


def _findings(found: Confirmation) -> Iterable[str]:
    shown = found.on_front if found.is_complete else found.students
    of_them = "students of the front" if found.is_complete else "repeated students"
    for verdict, text in (("hurt", "Distillation hurt at"), ("not separated", "Not shown to help at")):
        named = [named_gain(student) for student in shown if student.verdict == verdict]
        if named:
            yield f"{text} {words.listed(named)}."
    helped = sum(student.verdict == "helped" for student in shown)
    judged = sum(bool(student.verdict) for student in shown)
    if judged:
        yield f"Distillation helped at {helped} of {judged} {of_them} that have a control."
    against = [student for student in shown if student.verdict_over_kd]
    if against:
        better = [s.record.student_id for s in against if s.verdict_over_kd == "helped"]
        worse = [s.record.student_id for s in against if s.verdict_over_kd == "hurt"]
        yield (
            f"Against {PLAIN}, the recipe that was found is better at "
            f"{len(better)} of {len(against)} students{_named(better)}"
            + (f", and worse at {words.listed(worse)}." if worse else ".")
        )
    unsure = [s for s in shown if s.p_on_front is not None and s.p_on_front < LIKELY]
    if unsure:
        named = [student.record.student_id for student in unsure]
        yield f"More likely off the true front than on it: {words.listed(named)}."


def named_gain(student: Student) -> str:
    """`t0007 (-0.44 points, -0.84 to -0.03)`."""
    assert student.gain is not None
    between = interval(student.gain)
    ends = f", {between}" if between else ""
    return f"{student.record.student_id} ({points(student.gain.mean)} points{ends})"


def limits(sweep: SweepRecord, found: Confirmation | None) -> Iterable[str]:
    """How far the front can be trusted: what repeats have cured and what they have not."""
    n = len(results.completed(sweep, "search"))
    if found is None or not found.is_complete:
        yield (
            "One seed: every point of the search's front is a single training. Repeats of one recipe with "
            "other seeds differ by 0.2 to 0.3 points (standard deviation on CIFAR-100), so nearby points "
            "may trade places."
        )
        yield (
            f"Optimistic: the front was chosen among {n} students by the very validation accuracies that "
            "it is shown with. On new data it will be somewhat lower, and the more trials, the more."
        )
    if found is None:
        if sweep.header["spec"].get("search", {}).get("seeds", 1) == 1:
            yield "Unconfirmed: no student of the front was trained again with other seeds."
        return
    if not found.is_complete:
        members = len(found.of_search) + len(found.unrepeated)
        yield f"Partly confirmed: {len(found.of_search)} of {members} front students were trained again."
        return
    variance, degrees = found.spread
    fewest = min(student.validation.n for student in found.students)
    if degrees and variance:
        apart = 100 * statistics.t_quantile((1 + CONFIDENCE) / 2, degrees) * math.sqrt(2 * variance / fewest)
        yield (
            f"Confirmed with {_many(fewest, 'fresh seed')} or more each: two students whose confirmed "
            f"accuracies are less than about {apart:.2f} points apart are not told apart."
        )
    if len(found.students) < n:
        yield (
            f"Only {len(found.students)} of the {n} students that could have been on the front were trained "
            "again: p on front knows no others."
        )
    if found.split == "test":
        yield (
            "Still a little optimistic on validation: the repeats are scored on the images that chose the "
            "recipes. The test accuracies are not: no choice was made by them, as long as none is made now."
        )
    else:
        yield (
            "Still a little optimistic: the repeats are scored on the very images that chose the recipes, "
            "and there is no test accuracy."
        )


def did_not_work(sweep: SweepRecord, found: Confirmation | None, is_listed: bool) -> list[Block]:
    """What did not separate from no distillation, did worse, or left the front. Empty without a comparison.

    A sweep that compares methods on equal terms has said so of its methods there.
    """
    methods = [] if is_listed else against_floor.methods(sweep)
    if found is None and not methods:
        return []
    return [
        Heading("What did not work"),
        *(_left(found) if found else []),
        *(_paired(found) if found else []),
        *(_methods(methods) if methods else []),
    ]


def _left(found: Confirmation) -> list[Block]:
    if not found.is_complete:
        return []
    header = ("left the front", "search", "confirmed", "test", "p on front", "recipe")
    rows = tuple(
        (
            student.record.student_id,
            f"{results.accuracy(student.record):.4f}",
            _mean(student.validation),
            _mean(student.test),
            "" if student.p_on_front is None else f"{student.p_on_front:.2f}",
            words.recipe(student.record.config),
        )
        for student in found.left
    )
    lost = [
        f"{trial.student_id} left the front because none of its repeats could be trained to the end."
        for trial in found.unrepeated
    ]
    text = Paragraph("Every student of the search's front is on the confirmed one, too.")
    return [*([Table(header, "lrrrrw", rows)] if rows else [text]), *([Bullets(tuple(lost))] if lost else [])]


def _paired(found: Confirmation) -> list[Block]:
    """Recipes without a paired gain, over no distillation or over plain kd."""
    rows = tuple(
        (
            student.record.student_id,
            str(student.validation.n),
            *_judged(student.gain, student.verdict),
            *_judged(student.gain_over_kd, student.verdict_over_kd),
            words.recipe(student.record.config),
        )
        for student in found.students
        if {student.verdict, student.verdict_over_kd} & {"hurt", "not separated"}
    )
    if not rows:
        return []
    compared = ("over no KD", "interval", "verdict", "over plain KD", "interval", "verdict")
    text = (
        f"Mean differences over n seeds, paired by seed, of {found.split} accuracy in points with their "
        f"{CONFIDENCE:.0%} intervals, for every student that was trained again and did not gain over both. "
        f"{RULE}"
    )
    table = Table(("student", "n", *compared, "recipe"), "lrrrlrrlw", rows)
    return [Heading("Recipes without a gain", 3), Paragraph(text), table]


def _judged(gain: Estimate | None, verdict: str) -> tuple[str, str, str]:
    return points(gain.mean) if gain else "", interval(gain), verdict


def _methods(methods: Sequence[against_floor.Method]) -> list[Block]:
    poor = [method for method in methods if method.verdict != "helped"]
    rows = tuple(
        (
            literal(method.label),
            str(method.num_completed),
            str(method.num_stopped),
            str(method.num_failed),
            points(method.difference.mean) if method.difference else "",
            interval(method.difference),
            method.verdict or "never completed",
        )
        for method in poor
    )
    others = len(methods) - len(poor)
    header = ("methods", "n", "stopped", "failed", "over the floor", f"{CONFIDENCE:.0%} interval", "verdict")
    blocks: list[Block] = [
        Heading("Methods that stayed at the no-KD floor", 3),
        Paragraph(
            "A weak comparison, of search trials without a partner: the mean over n completed trials of "
            "validation accuracy less the no-KD floor of that size, which is interpolated in log size "
            "between the controls of the start. Those have one recipe that nobody tuned; the trials of a "
            "method differ in everything else; the search gives more trials to what looks good and stops "
            "what does not, so the means flatter. The verdict rule is the same. "
            f"{_many(others, 'other combination')} of methods lie above the floor, which for these reasons "
            "is no proof that they help."
        ),
    ]
    return [*blocks, Table(header, "lrrrrrl", rows)] if rows else blocks


def points(fraction: float) -> str:
    """`+1.23`: a difference of accuracies in points."""
    return f"{100 * fraction:+.2f}"


def interval(known: Estimate | None) -> str:
    """`+0.84 to +1.62` in points, blank where there is none."""
    if known is None or known.low is None or known.high is None:
        return ""
    return f"{points(known.low)} to {points(known.high)}"


def _mean(known: Estimate | None) -> str:
    if known is None:
        return ""
    return f"{known.mean:.4f}" + ("" if known.std is None else f" ± {known.std:.4f}")


def _named(names: Sequence[str]) -> str:
    return f" ({words.listed(names)})" if names else ""


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
