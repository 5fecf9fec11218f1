// What the page can change: purge and delete a queue, write a checkpoint. Each is confirmed in a dialog; the token is asked for once and
// lives in this module only, never in storage, the address or the page.

import { byId, setText } from "./dom.js";
import { nameText } from "./model.js";

// A checkpoint of a large journal may take a while, ms.
const ACTION_TIMEOUT_MS = 60_000;
// Names longer than this are not typed without a mistake: their id is asked for instead.
const TYPED_NAME_LEN_MAX = 60;

let token = null;
let ask = null;

/** What has to be typed: the name, or the id where the name as it is shown differs from what it is or cannot be typed. */
function phraseOf({ id, name }) {
  const typable = name !== "" && name.length <= TYPED_NAME_LEN_MAX && name === nameText(name) && !/[\s\ufffd]/u.test(name);
  return typable ? name : id;
}

/** Asks for confirmation of "purge" or "delete" of a queue; `done` is called after it was done. */
export function confirmQueueAction(action, queue, done) {
  const path = `api/v1/queues/${encodeURIComponent(queue.id)}`;
  const purge = action === "purge";
  open({
    title: purge ? "Purge the queue" : "Delete the queue",
    text: purge
      ? `All messages of ${nameText(queue.name)} will be dropped. They cannot be brought back.`
      : `${nameText(queue.name)} and all its messages will be dropped. They cannot be brought back.`,
    phrase: phraseOf(queue),
    go: purge ? "Purge" : "Delete",
    request: purge ? [`${path}/purge`, "POST"] : [path, "DELETE"],
    done,
  });
}

/** Asks for confirmation of a checkpoint. */
export function confirmCheckpoint(done) {
  open({
    title: "Write a checkpoint",
    text: "Everything accepted so far is brought from the journals to the store. It is safe at any time and uses the disk meanwhile.",
    phrase: null,
    go: "Write it",
    request: ["api/v1/checkpoint", "POST"],
    done,
  });
}

function open(question) {
  ask = question;
  setText(byId("dialog-title"), question.title);
  setText(byId("dialog-text"), question.text);
  setText(byId("dialog-phrase"), question.phrase ?? "");
  setText(byId("dialog-go"), question.go);
  setText(byId("dialog-error"), "");
  byId("dialog-go").classList.toggle("danger", question.phrase !== null);
  byId("dialog-confirm-field").hidden = question.phrase === null;
  byId("dialog-confirm").value = "";
  byId("dialog-token").value = "";
  showState(false);
  byId("dialog").showModal();
}

function showState(busy) {
  byId("dialog-token-field").hidden = token !== null;
  const confirmed = ask.phrase === null || byId("dialog-confirm").value === ask.phrase;
  const authorized = token !== null || byId("dialog-token").value !== "";
  byId("dialog-go").disabled = busy || !confirmed || !authorized;
}

async function submit() {
  const tried = token ?? byId("dialog-token").value;
  const question = ask;
  setText(byId("dialog-error"), "");
  showState(true);
  const [path, method] = question.request;
  try {
    const answer = await fetch(path, {
      method,
      headers: { Authorization: `Bearer ${tried}`, "Content-Type": "application/json" },
      cache: "no-store",
      signal: AbortSignal.timeout(ACTION_TIMEOUT_MS),
    });
    if (answer.ok) {
      token = tried;
      if (ask === question) byId("dialog").close();
      question.done();
      return;
    }
    // A token that was refused is asked for again.
    token = answer.status === 401 || answer.status === 403 ? null : tried;
    const body = await answer.json().catch(() => ({}));
    fail(question, body.error ?? `the server answered ${answer.status}`);
  } catch (error) {
    fail(question, error.name === "TimeoutError" ? "no answer: it may still be done" : `the server cannot be reached: ${error.message}`);
  }
}

function fail(question, text) {
  if (ask !== question) return;
  setText(byId("dialog-error"), `Not done: ${text}`);
  showState(false);
}

/** Connects the dialog's controls. */
export function initActions() {
  byId("dialog-form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("dialog-go").disabled) submit();
  });
  byId("dialog-form").addEventListener("input", () => showState(false));
  byId("dialog-cancel").addEventListener("click", () => byId("dialog").close());
  byId("dialog").addEventListener("close", () => {
    ask = null;
    byId("dialog-token").value = "";
  });
}
