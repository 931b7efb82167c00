"""The skeleton and style of report.html."""

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{title}</title><style>
:root {{ --bg: #fff; --fg: #1c2330; --soft: #667085; --line: #e4e7ec; --old: #b3bccb; --new: #2f6fed; --up: #2f6fed; --down: #d9483b;
  --good: #17834a; --bad: #c2362b; }}
@media (prefers-color-scheme: dark) {{ :root {{ --bg: #12151c; --fg: #e8ebf1; --soft: #98a2b3; --line: #2a303c; --old: #566074;
  --new: #6c9bff; --up: #6c9bff; --down: #ff7b6e; --good: #4cc38a; --bad: #ff7b6e; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; background: var(--bg); color: var(--fg); max-width: 1040px; margin: 0 auto;
  padding: 48px 20px 96px; }}
h1 {{ font-size: clamp(40px, 9vw, 76px); line-height: 1.1; margin: 0; letter-spacing: -0.03em; }}
h1 span, .lead, small, figcaption, p {{ color: var(--soft); }}
.lead {{ font-size: 18px; margin: 8px 0; }}
h2 {{ margin: 64px 0 12px; font-size: 22px; letter-spacing: -0.01em; }}
table {{ border-collapse: collapse; width: 100%; }}
th {{ text-align: left; font-weight: 500; white-space: nowrap; }}
td, th {{ padding: 8px 10px 8px 0; border-bottom: 1px solid var(--line); }}
td:nth-child(2) {{ width: 60%; }}
.bar {{ height: 8px; border-radius: 4px; margin: 3px 0; }} .old {{ background: var(--old); }} .new {{ background: var(--new); }}
figure {{ margin: 0; }}
.cards {{ display: grid; gap: 28px 22px; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: 8px; }}
.pair img {{ width: 100%; image-rendering: pixelated; border-radius: 6px; border: 1px solid var(--line); display: block; }}
.pair small {{ font-size: 12px; }}
figcaption {{ font-size: 14px; margin-top: 4px; }}
.good {{ color: var(--good); }} .bad {{ color: var(--bad); }}
.plots {{ display: grid; gap: 24px; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); }}
.plots svg {{ width: 100%; border-bottom: 1px solid var(--line); }}
polyline {{ fill: none; stroke: var(--new); stroke-width: 1.6; }} .plots circle {{ fill: var(--down); }}
.scroll {{ overflow-x: auto; }} .tree circle {{ fill: var(--soft); }} .tree text {{ fill: var(--fg); font-size: 13px; }}
.tree image {{ image-rendering: pixelated; }} .tree path {{ fill: none; stroke: var(--old); }}
.tree .up {{ stroke: var(--up); }} .tree .down {{ stroke: var(--down); }} .tree .ode {{ stroke-dasharray: 4 4; }}
pre {{ overflow-x: auto; font-size: 13px; }}
</style></head><body>
{body}
</body></html>
"""
