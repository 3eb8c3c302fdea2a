// A conversation is a tree of turns: each is what was asked, what was answered, and what it follows.

/** How a response ends that can be continued. */
const CAN_CONTINUE = new Set(["completed", "incomplete"]);

export class Turn {
  constructor({
    id,
    parent = null,
    input = [],
    output = [],
    response = null,
    inConversation = false,
    source = "",
    timings = null,
  }) {
    Object.assign(this, { id, parent, input, output, response, inConversation, source, timings });
    /** The conversation that the server has it in. */
    this.tree = parent?.tree ?? null;
    this.children = [];
    this.isSuperseded = false;
    /** The code of what went wrong with it. */
    this.fault = "";
    this.view = null;
  }

  get status() {
    return this.response?.status ?? "completed";
  }

  get canContinue() {
    return this.response !== null && CAN_CONTINUE.has(this.status);
  }

  /** What a person wrote in it, the last of it if there is more. */
  get question() {
    const asked = this.input.filter((item) => item.role === "user").at(-1);
    return asked ? textOf(asked) : "";
  }

  get answer() {
    return this.output
      .filter((item) => item.type === "message")
      .map(textOf)
      .join("\n\n");
  }

  /** Calls that have no result yet. */
  get openCalls() {
    return this.output.filter(
      (item) => item.type === "function_call" || item.type === "custom_tool_call",
    );
  }

  /** The input once more, as a client sends it; with other words of the user's, if there are any. */
  again(question) {
    const items = this.input.map(anew);
    const asked = items.filter((item) => item.role === "user").at(-1);
    if (question !== undefined && asked) asked.content = question;
    else if (question !== undefined) items.push({ role: "user", content: question });
    return items;
  }
}

export class Conversation {
  constructor(tree = { turns: [] }) {
    this.id = tree.id ?? null;
    this.title = tree.title ?? "";
    this.source = tree.source ?? "page";
    this.isObject = tree.is_conversation ?? false;
    /** Whether its oldest turns may be left out when the context is full. */
    this.canForget = false;
    this.roots = [];
    this.turns = new Map();
    const byNumber = new Map();
    for (const fields of tree.turns) {
      const { response } = fields;
      const turn = new Turn({
        id: response?.id ?? `turn-${fields.turn}`,
        parent: byNumber.get(fields.follows) ?? null,
        input: fields.input,
        output: response?.output ?? fields.output ?? [],
        response,
        inConversation: fields.in_conversation,
        source: fields.source,
        timings: fields.timings,
      });
      turn.tree = tree.id;
      byNumber.set(fields.turn, turn);
      this.add(turn);
    }
  }

  add(turn) {
    this.group(turn).push(turn);
    this.turns.set(turn.id, turn);
  }

  remove(turn) {
    const all = this.group(turn);
    all.splice(all.indexOf(turn), 1);
    this.turns.delete(turn.id);
  }

  /** The response got its id from the server. */
  rename(turn, id) {
    this.turns.delete(turn.id);
    turn.id = id;
    turn.tree ??= this.isObject ? this.id : id;
    this.turns.set(id, turn);
  }

  /** What a result is the result of. */
  nameOf(callId) {
    const calls = [...this.turns.values()].flatMap((turn) => [...turn.input, ...turn.output]);
    return calls.find((item) => item.call_id === callId && item.name)?.name;
  }

  /** The turns from the first to this one. */
  path(leaf) {
    const turns = [];
    for (let turn = leaf; turn; turn = turn.parent) turns.unshift(turn);
    return turns;
  }

  /** The turns that follow the same turn, but for those that another has in its question. */
  siblings(turn) {
    return this.group(turn).filter((each) => !each.isSuperseded);
  }

  group(turn) {
    return turn.parent ? turn.parent.children : this.roots;
  }

  /** The newest turn that follows from this one, or the turn itself. */
  newest(turn) {
    let last = turn;
    while (last?.children.length) last = last.children.at(-1);
    return last ?? null;
  }

  get last() {
    return [...this.turns.values()].at(-1) ?? null;
  }

  /**
   * How the server is told what a new turn follows. It continues only what has finished: what was
   * stopped, failed or was deleted is said `again`, as part of the question.
   */
  following(leaf) {
    const said = [];
    const again = [];
    let parent = leaf;
    for (; parent && !parent.canContinue && !this.isTip(parent); parent = parent.parent) {
      again.push(parent);
      const answered = parent.output.filter((item) => item.type !== "reasoning");
      said.unshift(...parent.again(), ...answered.map(anew));
    }
    if (this.isTip(parent)) return { parent, said, again, body: { conversation: this.id } };
    return { parent, said, again, body: parent ? { previous_response_id: parent.id } : {} };
  }

  /** Whether what follows this turn belongs to a conversation object. */
  isTip(turn) {
    const next = turn ? turn.children : this.roots;
    return (
      this.isObject &&
      (turn === null || turn.inConversation) &&
      !next.some((other) => other.inConversation)
    );
  }
}

/** An item as a client sends it: the server gives it an id. */
function anew(item) {
  const { id, status, ...rest } = item;
  return rest;
}

/** The text of an item. */
export function textOf(item) {
  const content = item.content ?? item.output ?? "";
  if (typeof content === "string") return content;
  return content.map((part) => part.text ?? part.refusal ?? "").join("");
}

export function thoughtOf(item) {
  const parts = item.content?.length ? item.content : (item.summary ?? []);
  return parts.map((part) => part.text ?? "").join("\n\n");
}
