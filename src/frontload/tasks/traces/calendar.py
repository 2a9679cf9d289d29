"""Weekdays, dates and clock times.

reasoning-gym's other tasks of these kinds are left out for their errors: business days print the
wrong year past New Year's Eve, milliseconds lose one in half of the items (float truncation),
intervals between time zones can be negative, and the weekday of a date from 1 January does not
say whether the year is a leap year.
"""

from __future__ import annotations

import calendar
import random
import re
from datetime import date, timedelta
from itertools import pairwise

from frontload.tasks.families import Problem
from frontload.tasks.traces.gym import Entry, GymFamily, Work, another_number
from frontload.tasks.traces.lines import division, equation, running

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_COUNTED = re.compile(r"How many (\w+day)s|occurrences of (\w+day)|times does (\w+day)")


class CalendarArithmetic(GymFamily):
    """Weekday after or before a number of days, weekdays in a span, leap years."""

    name = "calendar_arithmetic"
    domain = "language"
    levels = tuple(
        {"tasks": tasks, "offset_upper_bound": days}
        for tasks, days in (
            (["weekday_offset"], 7),
            (["weekday_offset", "is_leap_year"], 30),
            (["weekday_offset", "count_days"], 40),
            (["weekday_offset", "count_days"], 100),
        )
    )
    scored_by = ("task",)
    chance = 0.2

    def core(self, entry: Entry) -> str:
        """The dates and numbers: each is put in 3 sentences, with 8 or 9 ways to ask for a form."""
        known = entry["metadata"]
        if known["task"] == "weekday_offset":
            return f"{known['start_date']} {known['offset_days']:+d}"
        if known["task"] == "count_days":
            return f"{known['start_date']} {known['end_date']} {_counted_weekday(entry)}"
        return str(known["year"])

    def work(self, entry: Entry) -> Work:
        known = entry["metadata"]
        if known["task"] == "weekday_offset":
            return _weekday_after(entry)
        if known["task"] == "count_days":
            return _days_counted(entry)
        return _leap_year(known["year"], entry["answer"])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        if problem.answer in _DAYS:
            return rng.choice(_DAYS)
        if problem.answer.isdecimal():
            return another_number(rng, problem.answer)
        return "No" if problem.answer == "Yes" else "Yes"


class TimeIntervals(GymFamily):
    """Clock times through minutes or seconds, dates through the ends of months."""

    name = "time_intervals"
    domain = "language"
    levels = (
        {"task_types": ["time"], "max_time_difference_seconds": 3 * 3600},
        {"task_types": ["time", "date"], "max_date_difference_days": 30},
        {"task_types": ["time_seconds", "date"], "max_date_difference_days": 100},
        {"task_types": ["time_seconds", "date"], "max_date_difference_days": 300},
    )
    scored_by = ("task_type",)

    def core(self, entry: Entry) -> str:
        """Both ends, however written; a clock time is stored with today's date, which must go."""
        known = entry["metadata"]
        part = slice(10) if known["task_type"] == "date" else slice(11, None)
        return f"{known['start_time'][part]} to {known['end_time'][part]}"

    def work(self, entry: Entry) -> Work | None:
        known = entry["metadata"]
        if entry["answer"].startswith("-"):
            return None  # an end at midnight, read as the midnight before
        start, end = known["start_time"], known["end_time"]
        if known["task_type"] == "date":
            return _between_dates(date.fromisoformat(start[:10]), date.fromisoformat(end[:10]))
        places = 3 if known["task_type"] == "time_seconds" else 2
        return _between_times(start[11:].split(":")[:places], end[11:].split(":")[:places])

    def mistake(self, rng: random.Random, problem: Problem) -> str:
        number = rng.choice(list(re.finditer(r"\d+", problem.answer)))
        width = 2 if ":" in problem.answer else 1
        changed = another_number(rng, number[0]).removeprefix("-").zfill(width)
        return problem.answer[: number.start()] + changed + problem.answer[number.end() :]


def _weekday_after(entry: Entry) -> Work:
    known = entry["metadata"]
    days = known["offset_days"]
    start, sign = date.fromisoformat(known["start_date"]), 1 if days > 0 else -1
    weekday = start.weekday()
    rest = abs(days) % 7
    path = [_DAYS[(weekday + sign * step) % 7] for step in range(rest + 1)]
    word = "after" if sign > 0 else "before"
    steps = [f"{division(abs(days), 7)}, and 7 days {word} is the same weekday"]
    steps.append(f"{rest} days {word} {path[0]}: {', '.join(path[1:]) or path[0]}")
    reverse = f"{rest} days {'before' if sign > 0 else 'after'} {path[-1]} is {path[0]}"
    return Work(steps, [reverse])


def _days_counted(entry: Entry) -> Work:
    """The first such weekday, then every seventh day."""
    known = entry["metadata"]
    start, end = date.fromisoformat(known["start_date"]), date.fromisoformat(known["end_date"])
    weekday = _counted_weekday(entry)
    wait = (_DAYS.index(weekday) - start.weekday()) % 7
    first = start + timedelta(days=wait)
    days = [first + timedelta(days=7 * week) for week in range(((end - first).days) // 7 + 1)]
    opening = f"{_written(start)} is a {_DAYS[start.weekday()]}"
    steps = [f"{opening}, the first {weekday} is {wait} days later, {_written(first)}"]
    listed = ", ".join(map(_written, days)) if days else f"none up to {_written(end)}"
    later = days[-1] + timedelta(days=7) if days else first
    check = f"the next {weekday} would be {_written(later)}, past {_written(end)}"
    return Work([*steps, f"{weekday}s: {listed}", f"count: {len(days)}"], [check])


def _counted_weekday(entry: Entry) -> str:
    found = _COUNTED.search(entry["question"])
    assert found, entry["question"]
    return next(name for name in found.groups() if name)


def _leap_year(year: int, answer: str) -> Work:
    """Divisible by 4, but not by 100 unless by 400."""
    steps = [division(year, 4)]
    if year % 4 == 0:
        steps.append(division(year, 100))
    if year % 100 == 0:
        steps.append(division(year, 400))
    february = 29 if calendar.isleap(year) else 28
    return Work([*steps, f"leap year: {answer}"], [f"February {year} has {february} days"])


def _between_dates(start: date, end: date) -> Work:
    """Days to the end of each month on the way."""
    marks = [start]
    while (marks[-1].year, marks[-1].month) < (end.year, end.month):
        month_end = date(marks[-1].year, marks[-1].month, _month_length(marks[-1]))
        marks.append(min(month_end + timedelta(days=1), end))
    if marks[-1] != end:
        marks.append(end)
    spans = [(later - earlier).days for earlier, later in pairwise(marks)] or [0]
    steps = [f"{a} to {b}: {(b - a).days}" for a, b in pairwise(marks)] or [f"{start} twice: 0"]
    steps += running("+", spans)
    answer = f"{(end - start).days} days"
    return Work([*steps, answer], [f"{start} and {answer} later is {end}"])


def _between_times(start: list[str], end: list[str]) -> Work:
    """Both times as one number of the smallest unit, their difference, and back."""
    first, first_lines = _in_units(start)
    last, last_lines = _in_units(end)
    steps = [*first_lines, *last_lines, equation(last, "-", first)]
    parts: list[int] = []
    left = last - first
    for _ in range(len(start) - 1):
        steps.append(division(left, 60))
        left, part = divmod(left, 60)
        parts.insert(0, part)
    answer = ":".join(f"{part:02d}" for part in (left, *parts))
    return Work([*steps, answer], [equation(first, "+", last - first)])


def _in_units(parts: list[str]) -> tuple[int, list[str]]:
    """`09:15` as 9 * 60 + 15 = 555."""
    total, lines = int(parts[0]), []
    for part in parts[1:]:
        lines.append(f"{total} * 60 + {int(part)} = {total * 60 + int(part)}")
        total = total * 60 + int(part)
    return total, lines


def _month_length(day: date) -> int:
    return calendar.monthrange(day.year, day.month)[1]


def _written(day: date) -> str:
    return f"{day:%B} {day.day}"
