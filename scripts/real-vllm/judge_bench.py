#!/usr/bin/env python3
"""Holds what `aurora-swarm bench` reports against what it should be. Prints one line of figures; exit code 1 where it does
not hold.

    judge_bench.py sweep|compare|models REPORT SECONDS WANTED SERVED CACHED

REPORT is a path without its ending: .json, .txt (the table), and of a sweep .svg. SECONDS is how long the command
took, WANTED how many prompts it should have asked with its warm-ups, SERVED how many the server has counted meanwhile, and
CACHED how many tokens it found in its prefix cache.
"""
import json
import math
import sys

faults = []


def fault(what):
    faults.append(what)


def is_right(runs, asked, what):
    """Figures of two repeats in which all was answered, and that fit together."""
    if len(runs) != 2 or any(run["answered"] != asked or run["asked"] != asked or run["failed"] for run in runs):
        fault(f"{what}: two runs of {asked} prompts should be there, all answered: {runs}")
    for run in runs:
        if not math.isclose(run["prompts_per_s"] * run["seconds"], run["answered"], rel_tol=1e-6):
            fault(f"{what}: {run['prompts_per_s']} prompts/s are not {run['answered']} in {run['seconds']} s")
        if not 0 < run["p50_s"] <= run["p99_s"] <= run["seconds"] * 1.02:
            fault(f"{what}: these latencies cannot be: {run}")


def spread(figures, name, digits=0):
    it = figures[name]
    return f"{it['median']:.{digits}f}"


def sweep(report, table):
    rows = table_rows(table)
    cells = report["cells"]
    if [(cell["batch"], cell["window"]) for cell in cells] != [(b, w) for w in ("8", "64") for b in ("1", "8", "32")]:
        fault("these cells are not those that were asked for")
    if len(rows) != len(cells):
        fault(f"the table has {len(rows)} rows for {len(cells)} cells")
    best = report["best"]
    speeds = {}
    for at, (cell, row) in enumerate(zip(cells, rows)):
        name = f"batch {cell['batch']}, window {cell['window']}"
        if int(cell["batch"]) > int(cell["window"]):
            if not cell["failed"] or cell["figures"] or cell["failed"].split(":")[0] not in row:
                fault(f"{name} cannot be measured, and should say so: {cell['failed']!r}, {row!r}")
            continue
        if cell["failed"] or not cell["figures"]:
            fault(f"{name} failed: {cell['failed']}")
            continue
        is_right(cell["runs"], 192, name)
        if any(run["completion_tokens"] != 192 * 32 for run in cell["runs"]):
            fault(f"{name}: answers should all have 32 tokens")
        per_request = cell["figures"]["prompts_per_request"]
        if not int(cell["batch"]) * 0.7 <= per_request <= int(cell["batch"]):
            fault(f"{name}: {per_request} prompts a request")
        speeds[at] = cell["figures"]["tokens_per_s"]["median"]
        if f"{speeds[at]:.0f}" not in row or row.split()[:2] != [cell["batch"], cell["window"]]:
            fault(f"{name}: the table says {row!r}")
        if row.endswith(" best") != (at == best):
            fault(f"{name}: the best one is marked wrongly: {row!r}")
    if not speeds or best is None or speeds.get(best) != max(speeds.values()):
        fault(f"{best} is not the best of {speeds}")
        return
    cell = cells[best]
    if f"--batch-size {cell['batch']} --concurrency {cell['window']}" not in table:
        fault("the table does not say how to use the best")
    slowest = min(speeds, key=speeds.get)
    print(f"{len(speeds)} of {len(cells)} cells measured, best batch {cell['batch']} window {cell['window']} with "
          f"{speeds[best]:.0f} tokens/s, least {speeds[slowest]:.0f} with batch {cells[slowest]['batch']} window "
          f"{cells[slowest]['window']}")


def compare(report, table):
    batched, single, answers = report["batched"], report["single"], report["answers"]
    for name, side in (("batched", batched), ("single", single)):
        is_right(side["runs"], 200, name)
        if (side["asked"], side["answered"], side["completion"], side["failed"]) != (400, 400, 1.0, None):
            fault(f"{name}: not all were answered: {side['failed']}")
    if single["requests"] != 400 or not 25 <= batched["requests"] <= 40:
        fault(f"{batched['requests']} batched and {single['requests']} single requests for 400 prompts in lists of 16")
    equal, different, unknown = (answers[key] for key in ("equal", "different", "unknown"))
    # (rounding differs with what else is in a batch, and at temperature 0 a tie may fall the other way)
    if equal + different != 400 or unknown or equal < 396:
        fault(f"{equal} equal, {different} different, {unknown} unknown")
    if f"answers: {equal} of 400 equal, {different} different" not in table or (different > 0) != bool(answers["example"]):
        fault("the table does not tell how many answers are equal, or no example of one that differs")
    ratios = [a["prompts_per_s"] / b["prompts_per_s"] for a, b in zip(batched["runs"], single["runs"])]
    speed_up = report["speed_up"]
    if not math.isclose(speed_up["median"], sum(ratios) / 2, rel_tol=1e-6):
        fault(f"the speed-up is {ratios}, not {speed_up}")
    print(f"{batched['requests']} against {single['requests']} requests, {spread(batched['figures'], 'prompts_per_s')} against "
          f"{spread(single['figures'], 'prompts_per_s')} prompts/s ({speed_up['median']:.2f} times), answers {equal} equal "
          f"{different} different")


def models(report, table):
    rows, lines = report["models"], table_rows(table)
    if [row["model"] for row in rows] != ["tiny", "twin"] or len(lines) != 2:
        fault(f"tiny and twin should be there: {[row['model'] for row in rows]}, {lines}")
    for row, line in zip(rows, lines):
        is_right(row["runs"], 8, row["model"])
        if (row["runs_whole"], row["runs_wanted"], row["failed"]) != (2, 2, None) or " 2 of 2 " not in line:
            fault(f"{row['model']}: runs failed: {row['failed']}, {line!r}")
        sample = " ".join((row["sample"] or "").split())
        if not sample or sample[:20] not in line:
            fault(f"{row['model']}: an answer should be there: {row['sample']!r}, {line!r}")
    if len({row["sample"] for row in rows}) != 1:
        fault("one model answers differently under two names")
    print(", ".join(f"{row['model']} {spread(row['figures'], 'p50_s', 3)} s an answer, {spread(row['figures'], 'tokens_per_s')} "
                    "tokens/s" for row in rows))


def table_rows(table):
    return [line.rstrip() for line in table.splitlines() if line.startswith(" ")][1:]


def main():
    what, path, seconds, wanted, served, cached = sys.argv[1:]
    with open(f"{path}.json", encoding="utf-8") as file:
        report = json.load(file)
    with open(f"{path}.txt", encoding="utf-8") as file:
        table = file.read()
    conditions = report["conditions"]
    if (conditions["ranks"], conditions["endpoints"], conditions["repeats"]) != (2, 1, 2):
        fault(f"not two ranks, one endpoint, two repeats: {conditions}")
    if served != wanted:
        fault(f"{wanted} prompts should have been asked, and the server answered {served}")
    if not conditions["caches_apart"] or conditions["rows_came_again"] or cached != "0":
        fault(f"measurements are not kept apart: {cached} tokens were found in the prefix cache; {conditions}")
    measured = [run["seconds"] for run in runs_of(report)]
    if not 0 < sum(measured) < float(seconds):
        fault(f"{sum(measured):.1f} s were measured in {seconds} s")
    {"sweep": sweep, "compare": compare, "models": models}[what](report, table)
    if what == "sweep":
        with open(f"{path}.svg", "rb") as file:
            chart = file.read()
        if not chart.startswith(b"<svg") or len(chart) < 2000:
            fault(f"the .svg is not a chart: {len(chart)} bytes")
        if b"best: " not in chart:
            fault("the best cell is not marked in the chart")
    for it in faults[:20]:
        print(f"    WRONG: {it}", file=sys.stderr)
    sys.exit(1 if faults else 0)


def runs_of(report):
    """All measurements of a report, of whichever kind."""
    if isinstance(report, dict):
        yield from report.get("runs") or []
        for key, value in report.items():
            if key != "runs":
                yield from runs_of(value)
    elif isinstance(report, list):
        for value in report:
            yield from runs_of(value)


main()
