"use strict";
/* Text of models, safe to look at: it reaches the page as text nodes only, and what would be
   invisible, or move other text, gets a name. `visible.py` does the same for the figures. */

// Control, format (bidi marks), lone surrogate, separators; not newline, tab and the two joiners.
const UNSEEN = /(?![\n\t\u200c\u200d])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
// A single piece longer than this is cut, and says so.
const LONGEST_PIECE = 2000;

function visible(text) {
  return text
    .replace(UNSEEN, (character) => {
      const code = character.codePointAt(0);
      if (code < 0x20) return String.fromCodePoint(0x2400 + code);
      return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
    })
    .replace(/\n/g, "↵\n")
    .replace(/\t/g, "→\t");
}

/** A token's text as shown: visible, and cut where it would be a page of its own. */
function shown(piece) {
  if (piece.length <= LONGEST_PIECE) return visible(piece);
  const more = (piece.length - LONGEST_PIECE).toLocaleString("en");
  return `${visible(piece.slice(0, LONGEST_PIECE))}⟨… ${more} more characters in this token⟩`;
}

/** The beginning of a text on one line. */
function beginning(text, length) {
  const line = visible(text.slice(0, length)).replace(/\s+/g, " ");
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
