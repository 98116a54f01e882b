// The style sheet of the report page: system fonts, one accent, light and dark, phone and print.
#pragma once

#include <string_view>

namespace swiftprune {

inline constexpr std::string_view kPageStyle = R"css(
:root { color-scheme: light dark;
  --page: #fbfbfa; --card: #ffffff; --text: #1b1f24; --muted: #5b6570; --line: #e2e5e8; --soft: #f1f3f4;
  --good: #17784a; --fair: #8a6100; --bad: #b3261e; --mark: #fff1b8;
  --s0: #1f6feb; --s1: #c2410c; --s2: #0f766e; --s3: #7c3aed; --s4: #a16207; --s5: #be185d; --s6: #64748b; }
@media screen and (prefers-color-scheme: dark) { :root {
  --page: #121518; --card: #191d21; --text: #e4e7ea; --muted: #9aa5b0; --line: #2c3238; --soft: #22272c;
  --good: #4cc38a; --fair: #e0b04a; --bad: #ff8a80; --mark: #4a3f12;
  --s0: #6cb0ff; --s1: #ff9b61; --s2: #4fd1c0; --s3: #b79bff; --s4: #e3bd4f; --s5: #ff8ab8; --s6: #94a3b8; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
header p, .quiet { color: var(--muted); }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; color: var(--muted); }
h2 { font-size: 1.2rem; font-weight: 650; margin: 3rem 0 .3rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .3rem 0 .8rem; max-width: 46rem; }
.verdict { margin: 1rem 0 1.5rem; padding: 1.2rem 1.4rem; background: var(--card); border: 1px solid var(--line);
  border-left: .35rem solid var(--fair); border-radius: .5rem; }
.verdict.good { border-left-color: var(--good); } .verdict.bad { border-left-color: var(--bad); }
.verdict strong { display: block; font-size: 1.55rem; line-height: 1.25; font-weight: 650; letter-spacing: -.01em; }
.verdict p { margin: .5rem 0 0; max-width: 56rem; }
.gates { list-style: none; margin: .9rem 0 0; padding: 0; font-variant-numeric: tabular-nums; }
.gates li { padding: .15rem 0; } .gates b { display: inline-block; min-width: 3.2rem; }
.pass b { color: var(--good); } .fail b { color: var(--bad); }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .5rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; }
thead th { font-weight: 500; color: var(--muted); white-space: nowrap; vertical-align: bottom; }
thead small { display: block; font-size: .8em; }
.num { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
tbody th { font-weight: 600; white-space: nowrap; position: sticky; left: 0; background: var(--card); }
.cards tbody th { white-space: normal; min-width: 8rem; overflow-wrap: anywhere; }
td small { display: block; color: var(--muted); }
tr.best > * { background: var(--soft); }
figure { margin: 1rem 0; } figcaption { color: var(--muted); font-size: .875rem; margin-bottom: .3rem; }
.grid { display: grid; gap: .5rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); }
.grid figure { margin: .3rem 0; }
svg { display: block; max-width: 100%; height: auto; } svg text { font-family: inherit; fill: var(--text); }
svg.chart { width: 40rem; } svg.chart.small { width: 100%; max-width: 24rem; }
svg .tick { font-size: 12px; fill: var(--muted); } svg .name { font-size: 12.5px; fill: var(--muted); }
svg .series { font-size: 13px; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--muted); } svg .leader { stroke: var(--muted); stroke-width: .6; fill: none; }
svg .reference { stroke: var(--muted); stroke-dasharray: 5 4; } svg .limit { stroke: var(--bad); stroke-dasharray: 2 3; }
svg .chosen { fill: none; stroke: var(--text); stroke-width: 1.6; }
svg.mask { width: 9rem; background: var(--soft); border: 1px solid var(--line); shape-rendering: crispEdges; }
svg .kept { fill: var(--s0); } svg .sparsity { fill: var(--s0); } svg .own { fill: var(--s1); } svg .total { fill: var(--s2); }
.c0 { fill: var(--s0); } .c1 { fill: var(--s1); } .c2 { fill: var(--s2); } .c3 { fill: var(--s3); } .c4 { fill: var(--s4); } .c5 { fill: var(--s5); } .c6 { fill: var(--s6); }
.curve { fill: none; stroke-width: 2; } .l0 { stroke: var(--s0); } .l1 { stroke: var(--s1); } .l2 { stroke: var(--s2); }
.l3 { stroke: var(--s3); } .l4 { stroke: var(--s4); } .l5 { stroke: var(--s5); } .l6 { stroke: var(--s6); }
.example { border: 1px solid var(--line); border-radius: .5rem; background: var(--card); padding: 1rem 1.2rem; margin: .8rem 0; break-inside: avoid; }
.example > p { margin: 0 0 .7rem; max-width: none; white-space: pre-wrap; overflow-wrap: anywhere; }
.sides { display: grid; gap: .6rem 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); }
.sides h4 { margin: 0 0 .2rem; font-size: .85rem; font-weight: 500; color: var(--muted); }
.sides p { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; max-width: none; }
.guess { display: grid; grid-template-columns: 1fr 3.5rem; gap: .1rem .8rem; margin: 0; }
.guess dt, code, .token { font-family: ui-monospace, "SF Mono", Menlo, Consolas, "Liberation Mono", "DejaVu Sans Mono", monospace; font-size: .875em; }
.guess dt { white-space: pre-wrap; overflow-wrap: anywhere; }
.guess dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; }
mark { background: var(--mark); color: inherit; border-radius: .2rem; padding: 0 .1rem; }
.same { color: var(--muted); }
.pair { display: flex; gap: .6rem; } .pair svg { flex: 1 1 0; min-width: 0; }
pre { margin: .6rem 0; background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .9rem 1.1rem; overflow-x: auto;
  white-space: pre-wrap; overflow-wrap: anywhere; }
dl.words { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: .6rem 0; font-size: .9rem; } dl.words dt { font-weight: 600; } dl.words dd { margin: 0; max-width: 46rem; }
details { margin: .5rem 0; } summary { color: var(--muted); font-size: .875rem; cursor: pointer; }
@media (max-width: 40rem) { main { padding: 1.4rem 1rem 3rem; } .verdict { padding: 1rem; } .verdict strong { font-size: 1.3rem; }
  svg .tick, svg .name, svg .series { font-size: 17px; } svg.chart.small .tick { font-size: 13px; }
  .cards thead { display: none; } .cards tr { display: grid; grid-template-columns: 1fr 1fr; gap: .35rem 1.2rem; padding: .8rem .9rem;
    border-bottom: 1px solid var(--line); } .cards tr:last-child { border-bottom: 0; }
  .cards th, .cards td { display: flex; justify-content: space-between; align-items: baseline; flex-wrap: wrap; padding: 0; border: 0; text-align: right; }
  .cards th { grid-column: 1 / -1; position: static; background: none; white-space: normal; overflow-wrap: anywhere; font-size: 1rem; }
  .cards td::before { content: attr(data-label); color: var(--muted); font-weight: 400; text-align: left; }
  .cards td small { flex: 1 0 100%; } .cards tr.best { background: var(--soft); } }
@media (max-width: 30rem) { .cards tr { grid-template-columns: 1fr; } }
@page { size: A4; margin: 1.4cm; }
@media print { :root { color-scheme: light; --page: #fff; --card: #fff; --text: #000; --muted: #444; --line: #bbb; --soft: #eee; }
  body { font-size: 10pt; } main { max-width: none; padding: 0; } table { font-size: 7.5pt; } th, td { padding: .25rem .35rem; }
  .scroll { overflow: visible; border: 0; } tbody th { position: static; white-space: normal; } h2, h3, h4 { break-after: avoid; }
  h2 + p { break-after: avoid; } figure, .verdict { break-inside: avoid; } svg.chart { width: 34rem; }
  mark { font-weight: 700; text-decoration: underline; } svg, .verdict, tr.best > * { print-color-adjust: exact; }
  details:not(.screen)::details-content { content-visibility: visible; block-size: auto; } summary { list-style: none; } .screen:not([open]) { display: none; } }
)css";

}  // namespace swiftprune
