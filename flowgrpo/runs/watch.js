"use strict";
const PAUSE = 2000;
const live = document.getElementById("live"), error = document.getElementById("error");
let version = "";

async function follow() {
  try {
    const reply = await fetch("/state?" + version, {cache: "no-store"});
    if (reply.status === 200) {
      const found = await reply.json();
      redraw(found.body);
      version = found.version;
    } else if (reply.status !== 204 && reply.status !== 503) {
      throw new Error((await reply.json()).error);
    }
    error.hidden = true;
  } catch (problem) {
    error.textContent = problem instanceof TypeError ? "The server does not answer. Is flowgrpo watch still running?" : problem.message;
    error.hidden = false;
  }
  setTimeout(follow, PAUSE);
}

/* What the reader has opened stays open, and pictures that are the same stay in place. */
function redraw(body) {
  const next = document.createElement("div");
  next.innerHTML = body;
  const open = [...live.querySelectorAll("details")].map((fold) => fold.open);
  next.querySelectorAll("details").forEach((fold, i) => { fold.open = Boolean(open[i]); });
  const known = new Map([...live.querySelectorAll("img")].map((picture) => [picture.getAttribute("src"), picture]));
  next.querySelectorAll("img").forEach((picture) => {
    const old = known.get(picture.getAttribute("src"));
    if (old) picture.replaceWith(old);
  });
  const place = window.scrollY;
  live.replaceChildren(...next.childNodes);
  window.scrollTo(0, place);
}

follow();
