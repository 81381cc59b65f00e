"""How a report looks, beside what every page has: the first screen, rows of values, charts, and the list of trials."""

STYLE = """
.hero{display:grid;gap:22px;grid-template-columns:minmax(0,1fr)}
.kicker{margin:0;color:var(--soft);font-weight:600}
.big{font-size:3.1rem;line-height:1.05;font-weight:700;margin:2px 0;color:var(--blue);letter-spacing:-.02em}
.range{font-size:1.1rem;color:var(--soft);margin:0 0 8px}
.few .big,.few .strong .value{color:var(--soft)}
.few .strong .track i{background:#9fb8c9}.few .strong .track b{background:#5d7486}
.invalid .big,.invalid .kicker{color:var(--red)}
.verdict{font-size:1.1rem;font-weight:600}
.cases{margin:4px 0;font-weight:600}
.badge{display:inline-block;margin:0 0 8px;padding:3px 12px;border-radius:14px;border:2px solid var(--c);
color:var(--ink);background:var(--b);font-weight:600;--c:#8a949e;--b:#f0f2f4}
.badge.promoted{--c:var(--blue);--b:#e6f2f9}
.badge.few,.badge.refused,.badge.unfinished{--c:var(--orange);--b:var(--amber)}
.badge.forced{--c:var(--vermillion);--b:#fdeee4}
.badge.invalid{--c:var(--red);--b:var(--redwash);color:var(--red)}
.trust{list-style:none;padding:0;margin:8px 0}
.trust li{padding:7px 0 7px 14px;border-left:4px solid var(--line);margin-bottom:6px}
.trust li.warn{border-color:var(--orange);background:#fffaf0}
.trust b{display:block}
.chart{width:100%;max-width:520px;margin:6px auto 0}
.rows{margin-top:10px}
.row{display:grid;grid-template-columns:minmax(0,1fr) auto;gap:2px 12px;align-items:baseline;margin:0 0 10px}
.row .name{font-weight:600;font-size:.92rem;overflow-wrap:anywhere}
.row small{display:block;font-weight:400;color:var(--soft);font-size:.8rem}
.row .value{font-variant-numeric:tabular-nums;font-weight:600;text-align:right}
.track{grid-column:1/-1;position:relative;height:16px}
.track::before{content:"";position:absolute;left:0;right:0;top:50%;border-top:1px solid var(--line)}
.track i,.track b,.track u,.track s{position:absolute;top:50%}
.track s{border-top:2px solid var(--ink);margin-top:-1px;opacity:.75;text-decoration:none}
.number b{font-weight:600}p.number{margin:6px 0 0;font-size:.92rem}
.track i{height:6px;margin-top:-3px;border-radius:3px;background:#9fb8c9;min-width:2px}
.track b{width:12px;height:12px;margin:-6px 0 0 -6px;border-radius:50%;background:#5d7486}
.track u{width:0;height:16px;margin-top:-8px;border-left:2px dotted var(--ink);opacity:.6}
.strong .track i{background:#7fb8d8}.strong .track b{background:var(--blue)}.strong .value{color:var(--blue)}
.invalid .track i,.row.invalid .track i{background:#f0b3bb}
.invalid .track b,.row.invalid .track b{background:var(--red)}
.row.invalid .value,.invalid .value{color:var(--red)}
.tied .track i{background:#7fb8d8}.tied .track b{background:var(--blue)}
.part .track i{background:#cfe3ef;height:12px;margin-top:-6px;border-radius:2px}
.part .track b{width:9px;height:9px;margin:-4.5px 0 0 -4.5px;background:var(--blue);opacity:.6}
.bar .track i{background:var(--blue);height:10px;margin-top:-5px;border-radius:2px}
.scale .track::before{display:none}
.scale .track{height:18px;font-size:.75rem;color:var(--soft)}
.scale .track span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.part~.scale .track span:first-child{transform:none}.part~.scale .track span:last-child{transform:translateX(-100%)}
.key{display:flex;flex-wrap:wrap;gap:4px 16px;font-size:.85rem;color:var(--soft);margin:6px 0}
.key span::before{content:"";display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;
vertical-align:-1px;background:var(--c)}
.trials{list-style:none;padding:0;font-size:.85rem;color:var(--soft)}
.trials li{break-inside:avoid;padding:6px 0;border-top:1px solid var(--line);overflow-wrap:anywhere}
.trials b{color:var(--ink)}.trials b.red{color:var(--red)}
@media(min-width:880px){.trials{columns:2;column-gap:32px}}
.red{color:var(--red);font-weight:600}
@media(min-width:880px){.hero{grid-template-columns:minmax(0,1.05fr) minmax(0,1fr)}}
@page{size:A4;margin:13mm 12mm}
@media print{
html{font-size:12px;-webkit-print-color-adjust:exact;print-color-adjust:exact}
body{font-size:12px}
main{max-width:none;padding:0}
.card:has(svg),.card:has(dl),.card:has(ul:not(.trials)){break-inside:avoid}
.card{border:0;border-top:1px solid var(--line);border-radius:0;padding:8px 0;margin:6px 0}
.columns{grid-template-columns:minmax(0,1fr) minmax(0,1fr);gap:8px 18px;margin:6px 0}
.stack>.card{margin:0 0 8px}
.hero{grid-template-columns:minmax(0,1fr) minmax(0,1fr)}
.chart{max-width:340px}
h2,h3,.card>.soft{break-after:avoid}
svg,figure,.row,.trust li,tr,.badge,.alarm,.note,.pictures{break-inside:avoid}
thead{display:table-header-group}
.scroll{overflow:visible}
.pictures.tiles{grid-template-columns:repeat(4,minmax(0,1fr));gap:8px}
.trials{columns:2;column-gap:24px}
details>summary{display:none}
details::details-content{display:block;content-visibility:visible;block-size:auto;opacity:1}
}
"""
