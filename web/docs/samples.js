// Samples: the same request for curl, in Python and in JavaScript, for this server and its model.

import { key } from "/web/plain.js";

export const LANGUAGES = ["curl", "Python", "JavaScript"];

/** `asked`: `{method, path, body}`, with the path's variables filled in. */
export function sample(language, asked, model) {
  const write = { curl, Python: python, JavaScript: javascript }[language];
  return write({ ...asked, model, origin: location.origin });
}

function curl({ method, path, body, origin }) {
  const isStream = body?.stream === true;
  const lines = [`curl ${isStream ? "-N " : ""}${method === "GET" || body ? "" : `-X ${method} `}'${origin}${path}'`];
  if (key()) lines.push(`-H "Authorization: Bearer $OPENAI_API_KEY"`);
  if (body) lines.push(`-H 'Content-Type: application/json'`, `-d '${JSON.stringify(body, null, 2).replaceAll("'", `'\\''`)}'`);
  return lines.join(" \\\n  ");
}

// What the SDKs call what they have methods for, and how they give the text of an answer.
const CALLS = {
  "/v1/chat/completions": {
    name: "chat.completions.create",
    ours: [],
    whole: "choices[0].message",
    python: 'for chunk in answer:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)',
    javascript: 'for await (const chunk of answer) {\n  process.stdout.write(chunk.choices[0]?.delta.content ?? "");\n}',
  },
  "/v1/responses": {
    name: "responses.create",
    ours: ["seed", "stop", "presence_penalty", "frequency_penalty"],
    whole: "output_text",
    python: 'for event in answer:\n    if event.type == "response.output_text.delta":\n        print(event.delta, end="", flush=True)',
    javascript: 'for await (const event of answer) {\n  if (event.type === "response.output_text.delta") process.stdout.write(event.delta);\n}',
  },
};

// Fields that the Python SDK does not know: they go into its `extra_body`.
const OURS = ["top_k", "min_p", "repetition_penalty", "enable_thinking", "max_reasoning_tokens", "chat_template_kwargs", "structured_outputs", "return_progress", "keep_alive"];

function python({ method, path, body, origin, model }) {
  const call = method === "POST" && CALLS[path];
  if (!call) return httpx({ method, path, body, origin });
  const ours = new Set([...OURS, ...call.ours]);
  const given = Object.entries({ model, ...body });
  const extra = Object.fromEntries(given.filter(([name]) => ours.has(name)));
  const known = given.filter(([name]) => !ours.has(name));
  if (Object.keys(extra).length) known.push(["extra_body", extra]);
  const lines = known.map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`);
  const then = body.stream ? call.python : `print(answer.${body.background ? "id" : call.whole})`;
  const key_ = key() ? "" : `, api_key="none-needed"`;
  return `from openai import OpenAI\n\nclient = OpenAI(base_url="${origin}/v1"${key_})\nanswer = client.${call.name}(\n${lines.join("\n")}\n)\n${then}\n`;
}

function httpx({ method, path, body, origin }) {
  const more = [];
  if (body) more.push(`    json=${pythonValue(body, 1)},`);
  if (key()) more.push(`    headers={"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},`);
  const rest = more.length ? `,\n${more.join("\n")}\n)` : ")";
  const first = more.length ? `\n    "${origin}${path}"` : `"${origin}${path}"`;
  return `${key() ? "import os\n\n" : ""}import httpx\n\nanswer = httpx.${method.toLowerCase()}(${first}${rest}\nprint(answer.text)\n`;
}

/** A JSON value as Python writes it. */
function pythonValue(value, depth) {
  const pad = "    ".repeat(depth);
  if (value === null) return "None";
  if (value === true) return "True";
  if (value === false) return "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const entries = Array.isArray(value)
    ? value.map((each) => pythonValue(each, depth + 1))
    : Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${pythonValue(each, depth + 1)}`);
  const short = `${open}${entries.join(", ")}${close}`;
  if (short.length < 60 && !short.includes("\n")) return short;
  return `${open}\n${entries.map((entry) => `${pad}    ${entry},`).join("\n")}\n${pad}${close}`;
}

function javascript({ method, path, body, origin, model }) {
  const call = method === "POST" && CALLS[path];
  if (!call) return fetching({ method, path, body, origin });
  const key_ = key() ? "" : `, apiKey: "none-needed"`;
  const fields = JSON.stringify({ model, ...body }, null, 2).replace(/^(\s*)"([a-z_]+)":/gm, "$1$2:");
  const then = body.stream ? call.javascript : `console.log(answer.${body.background ? "id" : call.whole});`;
  return `import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "${origin}/v1"${key_} });\nconst answer = await client.${call.name}(${fields});\n${then}\n`;
}

function fetching({ method, path, body, origin }) {
  const more = [];
  if (method !== "GET") more.push(`  method: "${method}",`);
  const headers = [];
  if (body) headers.push(`"Content-Type": "application/json"`);
  if (key()) headers.push("Authorization: `Bearer ${process.env.OPENAI_API_KEY}`");
  if (headers.length) more.push(`  headers: { ${headers.join(", ")} },`);
  if (body) more.push(`  body: JSON.stringify(${indented(JSON.stringify(body, null, 2), 1)}),`);
  const options = more.length ? `, {\n${more.join("\n")}\n}` : "";
  return `const answer = await fetch("${origin}${path}"${options});\nconsole.log(await answer.text());\n`;
}

const indented = (text, depth) => text.replaceAll("\n", `\n${"  ".repeat(depth)}`);
