"use strict";
const element = (id) => document.getElementById(id);
const KEYS = {ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", t: "tie", s: "skip"};
const FEW = 128;
let pair = null, busy = false;

async function ask(path, sent) {
  if (busy) return;
  busy = true;
  try {
    const how = sent && {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(sent)};
    const reply = await fetch(path, how || {});
    const found = await reply.json();
    if (!reply.ok) throw new Error(found.error);
    say("");
    await show(found);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer. Is flowgrpo vote still running?" : error.message);
  } finally {
    busy = false;
  }
}

function say(sentence) {
  element("error").textContent = sentence;
  element("error").hidden = !sentence;
}

async function show(found) {
  const sides = found.pair ? await Promise.all(found.sides.map(made)) : [];
  pair = found.pair || null;
  element("count").textContent = `${found.done} of ${found.of}`;
  element("bar").style.width = `${(100 * found.done) / found.of}%`;
  element("ask").hidden = !pair;
  element("end").hidden = Boolean(pair);
  element("prompt").textContent = pair ? found.prompt : "That was all of them";
  if (pair) {
    document.querySelectorAll(".side").forEach((side, i) => side.replaceChildren(sides[i]));
    found.then.flatMap((next) => next.sides).forEach((side) => { if (side.address) new Image().src = side.address; });
  } else {
    element("end").innerHTML = found.result;
  }
}

/* Both sides are seen at once, so that the faster one is not looked at first. */
function made(side) {
  if (!side.address) {
    const text = document.createElement("pre");
    text.textContent = side.text;
    return text;
  }
  return new Promise((done, fail) => {
    const picture = new Image();
    picture.alt = "a sample";
    picture.onload = () => {
      picture.classList.toggle("few", Math.max(picture.naturalWidth, picture.naturalHeight) <= FEW);
      done(picture);
    };
    picture.onerror = () => fail(new Error("A picture of this pair is gone. Is the run folder still there?"));
    picture.src = side.address;
  });
}

const vote = (choice) => { if (pair) ask("/vote", {pair, choice}); };
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const choice = KEYS[event.key];
  if (choice) {
    event.preventDefault();
    vote(choice);
  } else if (event.key === "u" || event.key === "Backspace") {
    event.preventDefault();
    ask("/undo", {});
  }
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  button.blur();
  if ("undo" in button.dataset) ask("/undo", {});
  else vote(button.dataset.choice);
});
ask("/next");
