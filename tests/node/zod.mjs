// The JSON schemas that Zod and the OpenAI SDK's own helper make of the same types.
import { zodResponseFormat } from "openai/helpers/zod";
import * as z from "zod";

const Node_ = z.object({
  value: z.number(),
  get next() {
    return Node_.nullable();
  },
});
const cases = {
  strings: [
    z.object({ plain: z.string(), short: z.string().min(2).max(4), code: z.string().regex(/^[A-Z]{3}$/) }),
    { plain: "é", short: "abc", code: "ABC" },
    { plain: "é", short: "a", code: "ABC" },
  ],
  formats: [
    z.object({ mail: z.email(), id: z.uuid(), day: z.iso.date(), when: z.iso.datetime() }),
    {
      mail: "a@b.co",
      id: "0b8cd5e0-7d3e-4c3a-9d47-0123456789ab",
      day: "2024-02-03",
      when: "2024-02-03T04:05:06Z",
    },
    { mail: "a@b.co", id: "none", day: "2024-02-03", when: "2024-02-03T04:05:06Z" },
  ],
  numbers: [
    z.object({ whole: z.int(), part: z.number().gte(0).lt(1), few: z.int().multipleOf(5).max(20) }),
    { whole: -3, part: 0.5, few: 15 },
    { whole: -3, part: 1, few: 15 },
  ],
  literals: [
    z.object({ one: z.literal("a"), any: z.literal([1, "b", true]), kind: z.enum(["x", "y"]) }),
    { one: "a", any: true, kind: "y" },
    { one: "a", any: false, kind: "y" },
  ],
  lists: [
    z.object({ tags: z.array(z.string()).max(2), pairs: z.array(z.object({ k: z.boolean() })) }),
    { tags: ["a", "b"], pairs: [{ k: true }] },
    { tags: ["a", "b", "c"], pairs: [] },
  ],
  nullable: [z.object({ note: z.nullable(z.string()) }), { note: null }, { note: 1 }],
  unions: [
    z.object({
      shape: z.discriminatedUnion("kind", [
        z.object({ kind: z.literal("circle"), radius: z.number() }),
        z.object({ kind: z.literal("square"), side: z.number() }),
      ]),
    }),
    { shape: { kind: "square", side: 2 } },
    { shape: { kind: "square", radius: 2 } },
  ],
  recursive: [
    z.object({ list: Node_ }),
    { list: { value: 1, next: { value: 2, next: null } } },
    { list: { value: 1, next: { value: "2", next: null } } },
  ],
  closed: [z.strictObject({ a: z.boolean() }), { a: true }, { a: true, b: 1 }],
  record: [
    z.object({ counts: z.record(z.string(), z.int()) }),
    { counts: { a: 1, b: 2 } },
    { counts: { a: "1" } },
  ],
};

const helped = (type) => zodResponseFormat(type, "answer").json_schema.schema;
const found = Object.entries(cases).map(([name, [type, valid, invalid]]) => {
  const schemas = [z.toJSONSchema(type)];
  // The helper refuses what OpenAI's strict mode has no words for.
  if (name !== "record") schemas.push(helped(type));
  return [name, { schemas, valid, invalid }];
});
console.log(JSON.stringify(Object.fromEntries(found)));
