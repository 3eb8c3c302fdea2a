// The wire: requests to this server, the key that it may ask for, and events as they stream.

import { $ } from "./dom.js";

/** What went wrong, in a sentence that can be shown. */
export class Failure extends Error {
  constructor(message, status = 0, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Milliseconds between two reads of a stream: nobody reads faster. */
const EVERY_MS = 40;

let asking = null;

/** Send a request; the key is asked for when the server says that it needs one. */
export async function request(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const key = sessionStorage.getItem("key");
    const headers = {};
    if (key) headers.authorization = `Bearer ${key}`;
    if (body) headers["content-type"] = "application/json";
    const answer = await reach(path, {
      method,
      headers,
      signal,
      body: body && JSON.stringify(body),
    });
    if (answer.status === 401) {
      if (sessionStorage.getItem("key") === key) await askForKey();
      continue;
    }
    if (!answer.ok) throw await failureOf(answer);
    return answer;
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

async function reach(path, options) {
  try {
    return await fetch(path, { ...options, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached.");
  }
}

async function failureOf(answer) {
  try {
    const { error } = await answer.json();
    return new Failure(error.message, answer.status, error.code);
  } catch {
    return new Failure(`The server answered with ${answer.status}.`, answer.status);
  }
}

function askForKey() {
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("key");
    const field = dialog.querySelector("input");
    field.value = "";
    dialog.showModal();
    dialog.addEventListener(
      "close",
      () => {
        asking = null;
        sessionStorage.setItem("key", field.value.trim());
        if (field.value.trim()) resolve();
        else reject(new Failure("The server asks for a key.", 401));
      },
      { once: true },
    );
  });
  return asking;
}

/**
 * The events of a stream, as many at a time as have come. It is read at a pace that nobody sees, so
 * that a quick model costs a few large reads and not thousands of small ones.
 */
export async function* events(answer) {
  const reader = answer.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    const found = lines.filter((line) => line.startsWith("data: {")).map((line) => line.slice(6));
    // Parsed together: a thousand small texts take longer than a large one.
    if (found.length) yield JSON.parse(`[${found.join()}]`);
    if (lines.includes("data: [DONE]")) return;
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}
