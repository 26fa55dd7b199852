"""Style and script of the sample sheet; what it shares with the report is in `evaluation/page.py`."""

STYLE = """
body { padding-top: .5rem; } h1 { font-size: 1.3rem; }
.facts { font-size: .85rem; gap: 0 1.5rem; margin: .4rem 0; }
.tables { display: flex; flex-wrap: wrap; gap: 0 2rem; } .tables table { font-size: .82rem; }
.tables th, .tables td { padding: .15rem .6rem; }
aside { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.5rem; align-items: center;
  background: var(--bg); border-bottom: 1px solid var(--line); padding: .4rem 0; font-size: .85rem; }
aside p { margin: 0; } output { font-variant-numeric: tabular-nums; font-weight: 600; }
kbd { border: 1px solid var(--line); border-radius: .25rem; padding: 0 .35rem; background: var(--card); margin-left: .5rem; }
textarea { flex: 1 1 6rem; min-width: 6rem; height: 1.6rem; resize: vertical; white-space: pre; overflow: hidden;
  background: var(--card); color: var(--soft); border: 1px solid var(--line); border-radius: .25rem;
  font: .75rem ui-monospace, monospace; }
button { font: inherit; color: inherit; background: var(--card); border: 1px solid var(--line); border-radius: .25rem;
  padding: .1rem .6rem; cursor: pointer; }
.card { display: grid; grid-template-columns: minmax(9rem, 15rem) 1fr auto; gap: 0 1rem; padding: .5rem .75rem; margin: .5rem 0;
  border: 1px solid var(--line); border-left: .4rem solid var(--c5); border-radius: .5rem; font-size: .88rem; line-height: 1.35;
  scroll-margin: 4rem; }
.card.accepted { border-left-color: var(--c3); } .card:focus { outline: none; }
.card[aria-current] { background: var(--card); outline: 2px solid var(--c1); }
.card p { margin: 0 0 .2rem; } .accepted p:first-child b { color: var(--c3); } .rejected p:first-child b { color: var(--c5); }
.why { font-weight: 600; } .said b { margin-right: 1rem; } .soft { font-size: .78rem; }
.clips { gap: .3rem; margin: 0 0 .3rem; } .card video, .card img { height: 6rem; border-radius: .3rem; }
.card audio { width: 100%; height: 1.8rem; }
.card blockquote { margin: 0; padding-left: .5rem; max-height: 8rem; overflow: auto; }
.card .block, .card .stray { margin: .15rem 0; padding: 0 .5rem; border-left-width: 3px; }
.card .block b { display: inline; margin-right: .4rem; }
.marks { display: flex; flex-direction: column; gap: .3rem; justify-content: center; }
[data-said=y] button[value=y] { background: var(--c3); color: var(--bg); }
[data-said=n] button[value=n] { background: var(--c5); color: var(--bg); }
@media (max-width: 45rem) { .card { grid-template-columns: 1fr auto; } .card > :first-child { grid-column: 1 / -1; } }
"""

SCRIPT = """
'use strict';
const cards = [...document.querySelectorAll('.card')], player = card => card.querySelector('video, audio');
let at = 0;
function go(to, scroll = true) {
  if (!cards.length) return;
  cards[at].removeAttribute('aria-current');
  at = Math.max(0, Math.min(cards.length - 1, to));
  cards[at].setAttribute('aria-current', 'true');
  cards[at].focus({preventScroll: true});
  if (scroll) cards[at].scrollIntoView({block: 'nearest'});
}
function play() {
  const media = player(cards[at]);
  for (const card of cards) for (const other of card.querySelectorAll('video, audio')) if (other !== media) other.pause();
  if (!media) return;
  if (!media.paused) return media.pause();
  media.currentTime = 0;
  media.play();
}
function tally() {
  const kinds = {}, wrong = [];
  let right = 0, judged = 0;
  for (const {dataset} of cards) {
    if (!dataset.said) continue;
    const kind = kinds[dataset.stratum] ??= {right: 0, wrong: 0};
    judged += 1;
    if (dataset.said === 'y') { right += 1; kind.right += 1; continue; }
    kind.wrong += 1;
    wrong.push({uid: dataset.uid, step: dataset.step, index: Number(dataset.index)});
  }
  const {run, seed} = document.body.dataset;
  const all = {run, seed: Number(seed), shown: cards.length, judged, right, kinds, wrong};
  const share = judged ? ` (${Math.round(100 * right / judged)} %)` : '';
  document.getElementById('tally').textContent = `${judged} of ${cards.length} judged, the filter right in ${right}${share}`;
  document.getElementById('json').value = JSON.stringify(all);
}
function say(what) {
  if (!cards.length) return;
  if (what) cards[at].dataset.said = what; else delete cards[at].dataset.said;
  tally();
  if (what) go(at + 1);
}
const keys = {j: () => go(at + 1), k: () => go(at - 1), ' ': play, y: () => say('y'), n: () => say('n'), u: () => say('')};
document.addEventListener('keydown', event => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(TEXTAREA|BUTTON)$/.test(event.target.tagName)) return;
  const act = keys[event.key];
  if (act) { event.preventDefault(); act(); }
});
document.addEventListener('click', event => {
  const card = event.target.closest('.card'), button = event.target.closest('.marks button');
  if (!card || /^(VIDEO|AUDIO)$/.test(event.target.tagName)) return;
  go(cards.indexOf(card));
  if (button) say(button.value);
});
document.getElementById('copy').addEventListener('click', () => {
  const box = document.getElementById('json');
  box.select();
  document.execCommand('copy');  // the clipboard API is not there for a page that is opened as a file
});
tally();
go(0, false);  // the summary stays in sight
"""
