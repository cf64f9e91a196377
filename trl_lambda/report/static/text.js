"use strict";
/* Text of models, safe to look at: it reaches the page as text nodes only, and what would be
   invisible, or move other text, gets a name. `visible.py` does the same for the figures. */

// Control, format (bidi marks), lone surrogate, separators; not newline, tab and the two joiners.
const UNSEEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
// Characters of a token, and of any other text: what is longer is cut, and says so.
const LONGEST_PIECE = 2000;
const LONGEST_TEXT = 50000;

function visible(text) {
  return text
    .replace(UNSEEN, (character) =>
      `⟨U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`)
    .replace(/\n/g, "↵\n")
    .replace(/\t/g, "→\t");
}

/** A text as shown: visible, and cut where it would be a book of its own. */
function shown(text, longest = LONGEST_TEXT) {
  if (text.length <= longest) return visible(text);
  const more = (text.length - longest).toLocaleString("en");
  return `${visible(text.slice(0, longest))}⟨… ${more} more characters⟩`;
}

/** The end of a text, where its beginning would be a book of its own. */
function shownEnd(text, longest = LONGEST_TEXT) {
  if (text.length <= longest) return visible(text);
  const more = (text.length - longest).toLocaleString("en");
  return `⟨${more} more characters …⟩${visible(text.slice(-longest))}`;
}

/** A text on one line. */
function oneLine(text) {
  return visible(text).replace(/\s+/g, " ");
}

/** The beginning of a text on one line. */
function beginning(text, length) {
  const line = oneLine(text.slice(0, length));
  return text.length > length ? `${line}…` : line;
}

/** For the chart library, which reads tags and entities in its labels. */
function escaped(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

/** A number as recorded; a dash where there is none. */
function figure(value) {
  return value === null || value === undefined ? "–" : String(value).replace(/-/g, "−");
}

/** A number for reading: three significant digits. */
function brief(value) {
  if (value === null || value === undefined) return "–";
  return figure(Number(Number(value).toPrecision(3)));
}

/** "1 group", "2 groups". */
function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** element("p", {class: "hint"}, "text", child): attributes and text, never markup. */
function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Text of a model, kept apart from the direction of what stands around it. */
function isolated(text) {
  return element("bdi", {}, text);
}

const byId = (id) => document.getElementById(id);
