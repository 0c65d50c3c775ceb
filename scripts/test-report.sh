#!/usr/bin/env bash
# Opens the report of a run in a real browser: a run with a slow server, one that dies, prompts that fail, a kill and a
# resume. The page's numbers have to be summary.json's and the manifest's, its console has to stay empty, and it is
# photographed light, dark and on a phone. Its last line says how it went; without Chromium it says "skipped".
#
#   scripts/test-report.sh [FOLDER]    keep the page and the pictures there
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC1091
. .mpi/env

browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
if [ -z "$browser" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  timeout 300 apt-get install -y --no-install-recommends chromium > /dev/null 2>&1 || true
  browser=$(command -v chromium || true)
fi
[ -n "$browser" ] || { echo "test-report: skipped: there is no Chromium, and it cannot be installed here"; exit 0; }

cargo build --quiet --workspace
bin=${CARGO_TARGET_DIR:-target}/debug
work=$(mktemp -d)
kept=${1:-}
sims=
clean() { [ -z "$sims" ] || kill "$sims" 2> /dev/null || true; [ -n "$kept" ] || rm -rf "$work"; }
trap clean EXIT
fail() { printf 'test-report: %s\n' "$*" >&2; exit 1; }

# Prompts that are told apart by their ids, one of which is an attempt to be a script.
python3 - "$work/prompts.jsonl" << 'PY'
import json, sys
with open(sys.argv[1], "w") as out:
    for n in range(6000):
        row = {"id": f"q{n}", "prompt": f"Question {n}: " + "why " * (1 + n % 60)}
        if n == 5:
            row = {"id": "<script>console.error('out')</script>", "prompt": ""}
        if n % 1000 == 7:
            row["prompt"] = "too long " * 9000
        out.write(json.dumps(row) + "\n")
PY
port=$((20000 + $$ % 20000))
"$bin/vllm-sim" --port "$port" --endpoints 4 --max-num-seqs 32 --lognormal 40:0.6 --slow 1=4 --die 3@900p > "$work/sims.log" 2>&1 &
sims=$!
for _ in $(seq 100); do (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && break; sleep 0.1; done
run() {
  "$AURORA_MPIEXEC" -n 2 "$bin/aurora-swarm" run "$work/prompts.jsonl" --output "$work/answers.jsonl" --max-tokens 128 \
    --temperature 0.7 --ready-timeout 5s --endpoint "http://127.0.0.1:$((port))" --endpoint "http://127.0.0.1:$((port + 1))" \
    --endpoint "http://127.0.0.1:$((port + 2))" --endpoint "http://127.0.0.1:$((port + 3))" --progress none "$@"
}
run --walltime 4s --margin 1s > "$work/first.log" 2>&1 && fail "the first start was to be stopped"
run > "$work/second.log" 2>&1 &
second=$!
for _ in $(seq 200); do [ "$(cat "$work"/answers.jsonl.run/shards/*.jsonl 2> /dev/null | wc -l)" -ge 2600 ] && break; sleep 0.05; done
for rank in $(pgrep -f "^[^ ]*aurora-swarm run $work/"); do kill -9 "$rank"; done
wait "$second" 2> /dev/null && fail "the second start was to be killed"
code=0; run > "$work/third.log" 2>&1 || code=$?
[ "$code" = 3 ] || { cat "$work/third.log" >&2; fail "the third start ended with $code, and 3 was expected"; }

page=file://$work/answers.jsonl.run/report.html
look() {
  timeout 60 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
    --disable-extensions --disable-component-update --enable-logging=stderr --v=0 --virtual-time-budget=2000 "$@" "$page" 2> "$work/browser.log"
  if grep -E 'CONSOLE|Refused to|ERR_' "$work/browser.log" >&2; then fail "the browser's console is not empty"; fi
}
look --dump-dom > "$work/page.html"
numbers=$(python3 - "$work" << 'PY'
import html.parser, json, sys
work = sys.argv[1]
manifest = json.load(open(f"{work}/answers.jsonl.run/manifest.json"))
summary = json.load(open(f"{work}/answers.jsonl.run/summary.json"))
class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.values, self.tags, self.texts = {}, [], []
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if "data-value" in attrs:
            self.values[attrs["id"]] = attrs["data-value"]
        for name in ("src", "href"):
            assert name not in attrs, f"{tag} loads {attrs[name]}"
    def handle_data(self, data):
        self.texts.append(data)
page = Page()
page.feed(open(f"{work}/page.html").read())
assert "script" not in page.tags, "there is a script on the page"
assert any("<script>console.error" in text for text in page.texts), "the id that would be a script is shown as it is"
counts = manifest["counts"]
assert summary["counts"] == counts, (summary["counts"], counts)
for name in ("answered", "failed", "open"):
    assert page.values[name] == str(counts[name]), (name, page.values[name], counts[name])
assert counts["submitted"] == 6000 and counts["failed"] == 7 and counts["open"] == 0, counts
assert summary["requests"] == sum(it["requests"] for it in summary["starts"]), "requests"
assert summary["latency_s"]["count"] == counts["answered"]
assert sum(bar["count"] for bar in summary["latency_s"]["histogram"]) == counts["answered"]
failed = {kind: its["count"] for kind, its in summary["failures"].items()}
assert failed == {"empty_prompt": 1, "too_long": 6}, failed
assert all(page.values[f"failed-{kind}"] == str(its) for kind, its in failed.items())
ends = [it["end"] for it in summary["starts"]]
assert ends == ["stopped", "killed", "finished"], ends
assert page.values["start-count"] == "3"
slow = [it["endpoint"] for it in summary["endpoints"]["stragglers"]]
assert len(slow) == 1 == int(page.values["straggling"]), slow
assert any(it["at_end"] for it in summary["endpoints"]["away"]), summary["endpoints"]["away"]
print(len(page.values), "numbers,", len(page.tags), "elements")
PY
) || fail "the page does not say what happened (above)"
look --screenshot="$work/light.png" --window-size=1200,3600
look --screenshot="$work/dark.png" --window-size=1200,3600 --blink-settings=preferredColorScheme=0
# (no window is narrower than 500; a frame may be)
printf '<body style="margin:0"><iframe src="report.html" style="width:390px;height:4800px;border:0"></iframe>' > "$work/answers.jsonl.run/phone.html"
page=file://$work/answers.jsonl.run/phone.html
look --screenshot="$work/phone.png" --window-size=500,4800
[ -z "$kept" ] || { mkdir -p "$kept"; cp "$work"/*.png "$work/answers.jsonl.run/report.html" "$work/answers.jsonl.run/summary.json" "$kept"; }
echo "test-report: $numbers, as in the manifest; nothing in the console; seen light, dark and on a phone"
