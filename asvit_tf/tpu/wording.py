"""What `asvit tpu-check` found, as a table for a terminal."""

from __future__ import annotations

from typing import Any


def in_words(result: dict[str, Any], profile: bool = False) -> str:
    """What `check.run` returns as a table; with `profile`, also what takes most of each phase."""
    lines = [
        f"{result['topology_name']}, {result['batch']} images on a chip{_chips_in_words(result)}",
        f"{'stride':>6}{'dilation':>10}{'HBM':>11}{'share':>7}{'GFLOP':>9}{'GB moved':>10}{'roofline':>11}{'bound':>8}"
        f"{'estimate':>11}{'images/s':>10}{'of peak':>9}",
    ]
    for phase in result["phases"]:
        where = f"{phase['stride'] or '':>6}{phase['dilation'] or '':>10}"
        if not phase["compiles"]:
            lines.append(f"{where}  does not compile: {phase['message']}")
            continue
        lines.append(
            f"{where}{phase['hbm_bytes'] / 2**30:>7.2f} GiB{phase['hbm_share']:>7.0%}{phase['flops'] / 1e9:>9.0f}"
            f"{phase['hbm_bytes_moved'] / 1e9:>10.2f}{phase['roofline_seconds'] * 1e3:>8.2f} ms{phase['bound']:>8}"
            f"{phase['estimated_seconds'] * 1e3:>8.2f} ms{phase['images_per_second']:>10.0f}{phase['peak_share']:>9.0%}"
        )
    if result["chip_hours"] is not None:
        lines.append(_hours_in_words(result))
    lines += dict.fromkeys(line for line in map(_loops_in_words, result["phases"]) if line)
    if result["evaluation"]:
        lines.append(result["evaluation"])
    largest = result.get("largest_batch")
    if largest:
        lines.append(f"largest batch of one chip: {largest['batch'] or largest['message']}")
    for phase in result["phases"] if profile else ():
        lines.append(f"stride {phase['stride'] or '-'}: share of the compiler's cycles, GB moved, instructions")
        for kind in phase["profile"]:
            share = kind["cycles"] / max(phase["cycles"], 1)
            lines.append(f"{share:>7.1%}{kind['hbm_bytes'] / 1e9:>8.2f}{kind['count']:>5} x {kind['kind']}")
    return "\n".join(lines)


def _chips_in_words(result: dict[str, Any]) -> str:
    """On how many chips the experiment's batch lies."""
    if result["chips"] is None:
        return f"; no whole number of chips has the {result['global_batch']} of a step so"
    return f"; {result['global_batch']} a step are {result['chips']} chips"


def _loops_in_words(phase: dict[str, Any]) -> str:
    """Which loops of a program make its estimate less sure; an empty line without such."""
    parts = {
        "of unknown trip count, counted once": phase["unknown_loops"],
        "that may end early, counted as often as they can run": phase["bounded_loops"],
    }
    counted = [f"{number} {kind}" for kind, number in parts.items() if number]
    return f"loops in the estimate: {'; '.join(counted)}" if counted else ""


def _hours_in_words(result: dict[str, Any]) -> str:
    line = f"whole schedule: {result['chip_hours']:.1f} chip-hours"
    if result["hours"] is not None:
        line += f", {result['hours']:.1f} hours on {result['chips']} chips"
    if len(result["phases"]) > 1:
        line += (
            f"; all tokens throughout {result['chip_hours_without']:.1f}; saved {result['saved']:.1%} (by the roofline "
            f"{result['roofline']['saved']:.1%} of {result['roofline']['chip_hours_without']:.1f})"
        )
    return line
