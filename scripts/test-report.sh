#!/usr/bin/env bash
# Opens reports in a real browser: the report of a run with a slow server, a server that dies, failed prompts, a stop, a
# kill and a resume on other numbers of ranks, and the report of a reduce. The numbers on the pages must equal those of
# summary.json, the manifests and tree.jsonl, the browser's console must stay empty, and no page may be wider than the
# window: light, dark and on a phone. The last line begins with "report:"; without Chromium, if it cannot be installed, it
# is "report: skipped, no browser".
#
#   scripts/test-report.sh [FOLDER]    keeps the pages and their screenshots in FOLDER
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck disable=SC1091
. .mpi/env

browser() { command -v chromium || command -v chromium-browser || command -v google-chrome || true; }
install() { timeout 300 apt-get install -y --no-install-recommends chromium > /dev/null 2>&1; }
if [ -z "$(browser)" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
  # A new machine has no package lists, or outdated ones.
  install || { timeout 120 apt-get update > /dev/null 2>&1 && install; } || true
fi
browser=$(browser)
if [ -z "$browser" ] || ! timeout 60 "$browser" --version > /dev/null 2>&1; then
  echo "report: skipped, no browser"
  exit 0
fi

cargo build --quiet --workspace
bin=${CARGO_TARGET_DIR:-target}/debug
work=$(mktemp -d)
kept=${1:-}
sims=
clean() { [ -z "$sims" ] || kill "$sims" 2> /dev/null || true; [ -n "${kept:-}" ] || rm -rf "$work"; }
trap clean EXIT
fail() { printf 'test-report: %s\n' "$*" >&2; exit 1; }

# Prompts with unique ids, one of which is a script if it is not escaped.
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
port=$((20000 + $$ % 10000))
"$bin/vllm-sim" --port "$port" --endpoints 4 --max-num-seqs 32 --lognormal 40:0.6 --slow 1=4 --die 3@900p > "$work/sims.log" 2>&1 &
sims=$!
for _ in $(seq 100); do [ "$(grep -c '^ready' "$work/sims.log" || true)" = 4 ] && break; sleep 0.1; done
run() {
  local ranks=$1
  shift
  "$AURORA_MPIEXEC" -n "$ranks" "$bin/aurora-swarm" run "$work/prompts.jsonl" --output "$work/answers.jsonl" --max-tokens 128 \
    --temperature 0.7 --ready-timeout 5s --endpoint "http://127.0.0.1:$((port))" --endpoint "http://127.0.0.1:$((port + 1))" \
    --endpoint "http://127.0.0.1:$((port + 2))" --endpoint "http://127.0.0.1:$((port + 3))" --progress none "$@"
}
run 2 --walltime 4s --margin 1s > "$work/first.log" 2>&1 && fail "the first session was not stopped"
run 2 > "$work/second.log" 2>&1 &
second=$!
for _ in $(seq 400); do [ "$(cat "$work"/answers.jsonl.run/shards/*.jsonl 2> /dev/null | wc -l)" -ge 2600 ] && break; sleep 0.05; done
for rank in $(pgrep -f "^[^ ]*aurora-swarm run $work/"); do kill -9 "$rank"; done
wait "$second" 2> /dev/null && fail "the second session was not killed"
code=0; run 3 > "$work/third.log" 2>&1 || code=$?
[ "$code" = 3 ] || { cat "$work/third.log" >&2; fail "the third session exited with $code instead of 3"; }

# A reduce of 300 leaves, two of them empty, with two of the remaining servers.
python3 - "$work/leaves.jsonl" << 'PY'
import json, sys
with open(sys.argv[1], "w") as out:
    for n in range(300):
        out.write(json.dumps({"id": f"l{n}", "prompt": "" if n in (3, 150) else f"Leaf {n}: why?"}) + "\n")
PY
code=0
"$AURORA_MPIEXEC" -n 3 "$bin/aurora-swarm" reduce "$work/leaves.jsonl" --output "$work/text.txt" --fan-in 8 --max-tokens 16 \
  --max-tokens-aggregation 16 --endpoint "http://127.0.0.1:$((port))" --endpoint "http://127.0.0.1:$((port + 2))" \
  --progress none > "$work/reduce.log" 2>&1 || code=$?
[ "$code" = 3 ] || { cat "$work/reduce.log" >&2; fail "the reduce exited with $code instead of 3"; }

look() {
  local page=$1
  shift
  timeout 60 "$browser" --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --user-data-dir="$work/profile" \
    --disable-extensions --disable-component-update --enable-logging=stderr --v=0 --virtual-time-budget=2000 "$@" "$page" 2> "$work/browser.log"
  if grep -E 'CONSOLE|Refused to|ERR_' "$work/browser.log" >&2; then fail "the browser's console is not empty"; fi
}

# fits FOLDER WIDTH DARK: checks the width of the page and its background colour. A window has at least 500 pixels, so the
# page is opened in a frame.
fits() {
  local folder=$1 width=$2 dark=$3 told
  printf '%s' "<body style='margin:0'><iframe id=f src=report.html style='width:${width}px;height:9000px;border:0'></iframe><script>
    f.onload = () => { const it = f.contentDocument; document.title =
      [it.documentElement.scrollWidth, f.contentWindow.innerWidth, f.contentWindow.getComputedStyle(it.body).backgroundColor].join(' ') }
    </script>" > "$folder/frame.html"
  local scheme=1
  [ "$dark" = no ] || scheme=0
  look "file://$folder/frame.html" --dump-dom --allow-file-access-from-files --window-size=1300,900 \
    --blink-settings=preferredColorScheme=$scheme > "$work/frame.dom"
  rm "$folder/frame.html"
  told=$(sed -n 's/.*<title>\(.*\)<\/title>.*/\1/p' "$work/frame.dom")
  python3 - "$told" "$width" "$dark" << 'PY' || fail "$folder/report.html is wider than $width, or does not follow the system's colour scheme: $told"
import re, sys
told, width, dark = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "yes"
wide, room, *colour = told.split(" ", 2)
light = sum(map(int, re.findall(r"\d+", colour[0])[:3])) / 3
assert int(room) == width and int(wide) <= width, told
assert (light < 80) == dark, told
PY
}

for of in answers.jsonl text.txt; do
  folder=$work/$of.run
  look "file://$folder/report.html" --dump-dom > "$work/$of.html"
  fits "$folder" 1200 no
  fits "$folder" 1200 yes
  fits "$folder" 390 no
done

numbers=$(python3 - "$work" << 'PY'
import html.parser, json, sys
work = sys.argv[1]
def read(path):
    return json.load(open(f"{work}/{path}"))
class Page(html.parser.HTMLParser):
    def __init__(self, of):
        super().__init__()
        self.values, self.tags, self.texts = {}, [], []
        self.feed(open(f"{work}/{of}.html").read())
        assert "script" not in self.tags, "there is a script on the page"
        self.text = " ".join(self.texts)
    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if "data-value" in attrs:
            self.values[attrs["id"]] = attrs["data-value"]
        for name in ("src", "href"):
            assert name not in attrs, f"{tag} loads {attrs[name]}"
    def handle_data(self, data):
        self.texts.append(data)
def place(of):
    """Returns the name of an endpoint of this host on the page."""
    return of.split(" ")[0] + of.replace("/", " ").split("127.0.0.1")[1].split(" ")[0]

page = Page("answers.jsonl")
manifest, summary = read("answers.jsonl.run/manifest.json"), read("answers.jsonl.run/summary.json")
assert any("<script>console.error" in text for text in page.texts), "the id that looks like a script must be shown as text"
counts = manifest["counts"]
assert summary["counts"] == counts, (summary["counts"], counts)
for name in ("answered", "failed", "open"):
    assert page.values[name] == str(counts[name]), (name, page.values[name], counts[name])
assert counts["submitted"] == 6000 and counts["failed"] == 7 and counts["open"] == 0, counts
assert summary["requests"] == sum(it["requests"] for it in summary["sessions"]), "requests"
assert summary["latency_s"]["count"] == counts["answered"]
assert sum(bar["count"] for bar in summary["latency_s"]["histogram"]) == counts["answered"]
failed = {kind: its["count"] for kind, its in summary["failures"].items()}
assert failed == {"empty_prompt": 1, "too_long": 6}, failed
assert all(page.values[f"failed-{kind}"] == str(its) for kind, its in failed.items())
# The slow endpoint is named.
slow = [it["endpoint"] for it in summary["endpoints"]["stragglers"]]
assert len(slow) == 1 == int(page.values["straggling"]), slow
first = min(int(it.rsplit(":", 1)[1].split(" ")[0].strip("/")) for it in manifest["settings"]["endpoint"])
assert place(slow[0]).endswith(f":{first + 1}"), slow
assert place(slow[0]) in page.text, "the page must name the slow endpoint"
# The endpoint that died is named.
dead = [it["endpoint"] for it in summary["endpoints"]["outages"] if it["down_at_end"] and it["n_outages"]]
assert dead and all(place(it).endswith(f":{first + 3}") for it in dead), summary["endpoints"]["outages"]
assert "down at the end" in page.text and place(dead[0]) in page.text
# The stopped, the killed and the resumed session.
assert [it["outcome"] for it in summary["sessions"]] == ["stopped", "killed", "finished"], summary["sessions"]
assert [it["ranks"] for it in summary["sessions"]] == [2, 2, 3], summary["sessions"]
assert summary["sessions"][2]["done_before"] >= 2600, summary["sessions"]
assert page.values["session-count"] == "3" and "resumed" in page.text

tree = Page("text.txt")
told, leaves = read("text.txt.run/summary.json"), read("text.txt.run/manifest.json")
lines = [json.loads(line) for line in open(f"{work}/text.txt.run/tree.jsonl")]
levels = told["reduce"]["levels"]
assert told["counts"] == leaves["counts"] == levels[0]["counts"] and leaves["counts"]["failed"] == 2
assert [it["nodes"] for it in levels] == [300, 38, 5, 1], levels
for at, level in enumerate(levels):
    for name in ("nodes", "passed", "empty", "cut"):
        assert tree.values[f"level-{at}-{name}"] == str(level[name]), (at, name)
    assert tree.values[f"level-{at}-asked"] == str(level["counts"]["submitted"]), at
    if at:
        mine = [it for it in lines if it["level"] == at]
        own = read(f"text.txt.run/level-{at:02}.run/manifest.json")["counts"]
        assert level["nodes"] == len(mine) and level["counts"] == own, (at, level["counts"], own)
        for outcome in ("passed", "empty", "failed"):
            assert level[outcome] == sum(it["outcome"] == outcome for it in mine), (at, outcome)
assert told["reduce"]["missing"] == leaves["reduce"]["missing"] == int(tree.values["tree-missing"]) == 2
assert tree.values["tree-submitted"] == str(sum(it["counts"]["submitted"] for it in levels))
whole = sum(it["active_s"] + it["build_s"] for it in levels)
assert abs(float(tree.values["tree-seconds"]) - whole) < 0.01, whole
assert {it["level"] for it in told["timeline"]} == {0, 1, 2, 3}, "the timeline must cover all levels"
print(len(page.values) + len(tree.values), "numbers on", len(page.tags) + len(tree.tags), "elements")
PY
) || fail "a page disagrees with the files (see above)"

if [ -n "$kept" ]; then
  mkdir -p "$kept"
  for of in answers.jsonl text.txt; do
    folder=$work/$of.run
    look "file://$folder/report.html" --screenshot="$kept/$of-light.png" --window-size=1200,4200
    look "file://$folder/report.html" --screenshot="$kept/$of-dark.png" --window-size=1200,4200 --blink-settings=preferredColorScheme=0
    printf '<body style="margin:0"><iframe src="report.html" style="width:390px;height:5200px;border:0"></iframe>' > "$folder/phone.html"
    look "file://$folder/phone.html" --screenshot="$kept/$of-phone.png" --window-size=500,5200
    cp "$folder/report.html" "$kept/$of.html"
    cp "$folder/summary.json" "$kept/$of.summary.json"
  done
  rm -rf "$work"
fi
echo "report: a run and a reduce, $numbers equal to their files; slow and dead endpoints and resumes shown; no console error; light, dark and phone fit"
