// What the OpenAI Node SDK makes of a server's responses, printed as JSON.

import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const settings = { model: "demo", temperature: 0, max_output_tokens: 300 };

const first = await client.responses.create({ ...settings, input: "My name is Zorblat." });
const second = await client.responses.create({
  ...settings,
  input: "What is my name?",
  previous_response_id: first.id,
});

const events = [];
for await (const event of await client.responses.create({ ...settings, input: "Hello!", stream: true })) {
  events.push(event);
}

const stream = client.responses.stream({ ...settings, input: "Hello!" });
const held = await stream.finalResponse();

const items = [];
for await (const item of client.responses.inputItems.list(first.id)) {
  items.push(item);
}
const counted = await client.responses.inputTokens.count({ model: "demo", input: "Hello!" });

const conversation = await client.conversations.create({ metadata: { k: "v" } });
const inside = await client.responses.create({
  ...settings,
  input: "Hello!",
  conversation: conversation.id,
});

// In the background: polled to its end, cancelled, and its stream resumed.
let polled = await client.responses.create({ ...settings, input: "Hello!", background: true });
while (["queued", "in_progress"].includes(polled.status)) {
  await new Promise((resolve) => setTimeout(resolve, 20));
  polled = await client.responses.retrieve(polled.id);
}
const endless = { ...settings, max_output_tokens: 3000, input: "Write a long story.", background: true };
const begun = await client.responses.create(endless);
const cancelled = await client.responses.cancel(begun.id);
const watched = [];
let watchedId;
for await (const event of await client.responses.create({ ...settings, input: "Hello!", background: true, stream: true })) {
  watchedId = event.response?.id ?? watchedId;
  watched.push(event);
  if (watched.length === 4) break;
}
const resumed = [];
for await (const event of await client.responses.retrieve(watchedId, { stream: true, starting_after: 3 })) {
  resumed.push(event);
}

const parsed = await client.responses.parse({
  ...settings,
  input: "Hello!",
  reasoning: { effort: "none" },
  text: {
    format: {
      type: "json_schema",
      name: "colour",
      strict: true,
      schema: {
        type: "object",
        properties: { colour: { enum: ["red", "blue"] } },
        required: ["colour"],
        additionalProperties: false,
      },
    },
  },
});
const compacted = await client.responses.compact({ model: "demo", input: [{ role: "user", content: "My name is Zorblat." }] });

const retrieved = await client.responses.retrieve(first.id);
await client.responses.delete(first.id);
const refusals = [];
for (const ask of [
  () => client.responses.retrieve(first.id),
  () => client.responses.create({ ...settings, input: "x", previous_response_id: first.id }),
  () => client.responses.create({ ...settings, input: "x", temperature: 9 }),
]) {
  try {
    await ask();
  } catch (error) {
    refusals.push({ status: error.status, code: error.code, param: error.param });
  }
}

console.log(
  JSON.stringify({
    first,
    second,
    events,
    held,
    items,
    counted,
    conversation,
    inside,
    retrieved,
    refusals,
    polled,
    cancelled,
    watched,
    resumed,
    parsed,
    compacted,
  }),
);
