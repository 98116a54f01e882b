#!/usr/bin/env python3
"""A part of a trace that `swiftprune ... --timeline FILE` wrote, as an SVG.

    timeline_chart.py TRACE.json[.gz] CHART.svg FIRST_MS LAST_MS
"""
import gzip
import json
import sys

WIDTH, ROW, LEFT, TOP = 960, 22, 150, 30
COLOURS = {"read": "#8a8f98", "forward": "#2563a8", "refine": "#b4530a", "exchange": "#7a3fa0", "write": "#4b7d3a"}


def main(trace, chart, first, last):
    opened = gzip.open(trace, "rt") if trace.endswith(".gz") else open(trace)
    with opened:
        events = json.load(opened)["traceEvents"]
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("name") == "thread_name"}
    spans = [e for e in events if e.get("ph") == "X"]
    begin = min(e["ts"] for e in spans) / 1e3
    # The GPU's own streams where there are any; else what the host waited for.
    rows = []
    for rank in sorted({e["pid"] for e in spans}):
        streams = {name for (pid, _), name in threads.items() if pid == rank}
        for name in COLOURS:
            source = {"read": "read", "write": "write"}.get(name, "exchange" if name == "exchange" else "gpu")
            source = source if any(s.startswith(source) for s in streams) else "main"
            inside = [e for e in spans if e["pid"] == rank and e["name"] == name
                      and threads[(rank, e["tid"])].startswith(source)]
            if inside:
                rows.append((f"rank {rank}: {name}", COLOURS[name], inside))
    scale = (WIDTH - LEFT - 10) / (last - first)
    height = TOP + ROW * len(rows) + 30
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
           f'font-size="12"><rect width="{WIDTH}" height="{height}" fill="#fff"/>']
    for i, (label, colour, inside) in enumerate(rows):
        y = TOP + ROW * i
        out.append(f'<text x="8" y="{y + 15}" fill="#333">{label}</text>')
        for e in inside:
            start, end = e["ts"] / 1e3 - begin, (e["ts"] + e["dur"]) / 1e3 - begin
            start, end = max(start, first), min(end, last)
            if start < end:
                out.append(f'<rect x="{LEFT + (start - first) * scale:.1f}" y="{y + 3}" '
                           f'width="{max((end - start) * scale, 0.8):.1f}" height="{ROW - 7}" fill="{colour}" '
                           f'fill-opacity="{0.55 if label.endswith("write") else 1}"/>')
    for tick in range(0, 11):
        ms = first + (last - first) * tick / 10
        x = LEFT + (ms - first) * scale
        out.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{height - 26}" stroke="#ccc" stroke-width="0.5"/>'
                   f'<text x="{x:.1f}" y="{height - 10}" fill="#333" text-anchor="middle">{ms - first:.0f} ms</text>')
    out.append("</svg>")
    with open(chart, "w") as file:
        file.write("\n".join(out) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
