// Schemas: the fields of a JSON object, as lists that people can read.

import { h, prose } from "/web/plain.js";

const DEEPEST = 3;

/** Follow a reference, and leave out that a field may be null. */
export function resolved(schema, components) {
  if (schema.$ref) return { ...components[schema.$ref.split("/").pop()], ...rest(schema, "$ref") };
  const kinds = (schema.anyOf ?? []).filter((each) => each.type !== "null");
  if (schema.anyOf && kinds.length === 1) return { ...resolved(kinds[0], components), ...rest(schema, "anyOf") };
  return schema;
}

function rest(schema, name) {
  const { [name]: _, ...others } = schema;
  return others;
}

/** The type of a schema, in a few words. */
export function typeOf(schema, components) {
  const found = resolved(schema, components);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" or ");
  if ("const" in found) return JSON.stringify(found.const);
  if (found.anyOf) return [...new Set(found.anyOf.filter((each) => each.type !== "null").map((each) => typeOf(each, components)))].join(" or ");
  if (found.type === "array") return `list of ${plural(typeOf(found.items ?? {}, components))}`;
  if (Array.isArray(found.type)) return found.type.filter((type) => type !== "null").join(" or ");
  return found.type ?? "any";
}

const plural = (type) => (type === "any" ? "anything" : `${type}s`);

/** What a value may be: `0 to 2`, `at most 16 entries`. */
function limits(schema, components) {
  const found = resolved(schema, components);
  const low = found.minimum ?? found.exclusiveMinimum;
  const high = found.maximum;
  const told = [];
  if (low !== undefined && high !== undefined && high < 1e7) told.push(`${"exclusiveMinimum" in found ? "above " : ""}${low} to ${high}`);
  else if (low !== undefined) told.push(`${"exclusiveMinimum" in found ? "above" : "at least"} ${low}`);
  if (found.maxItems) told.push(`at most ${found.maxItems.toLocaleString("en")}`);
  if (isWorthTelling(found.default)) told.push(`default ${JSON.stringify(found.default)}`);
  return told;
}

const isWorthTelling = (value) => value !== undefined && value !== null && typeof value !== "object";

/** The object whose fields are shown for a schema: itself, or what a list holds. */
function objectIn(schema, components) {
  const found = resolved(schema, components);
  if (found.properties) return found;
  if (found.items) return objectIn(found.items, components);
  for (const each of found.anyOf ?? []) {
    const inner = each.type === "null" ? null : objectIn(each, components);
    if (inner) return inner;
  }
  return null;
}

/** A list of an object's fields. */
export function fields(schema, components, depth = 0) {
  const found = objectIn(schema, components);
  if (!found) return null;
  const required = new Set(found.required ?? []);
  const sorted = Object.entries(found.properties).sort(([a], [b]) => required.has(b) - required.has(a));
  return h("ul", { class: "fields" }, sorted.map(([name, its]) => field(name, its, required.has(name), components, depth)));
}

function field(name, schema, isRequired, components, depth) {
  const inner = depth < DEEPEST ? fields(schema, components, depth + 1) : null;
  const text = resolved(schema, components).description;
  return h("li", {},
    h("div", { class: "field-head" },
      h("code", { class: "field-name" }, name),
      h("span", { class: "field-type" }, typeOf(schema, components)),
      isRequired ? h("span", { class: "required" }, "required") : null,
      limits(schema, components).map((limit) => h("span", { class: "limit" }, limit))),
    text ? h("p", {}, prose(text)) : null,
    inner ? h("details", {}, h("summary", {}, `Fields of ${name}`), inner) : null);
}

/** How many fields an object has. */
export function numFields(schema, components) {
  return Object.keys(objectIn(schema, components)?.properties ?? {}).length;
}

/** Every word by which a schema can be found. */
export function words(schema, components, depth = 0) {
  const found = objectIn(schema, components);
  if (!found || depth > 1) return [];
  return Object.entries(found.properties).flatMap(([name, its]) => [name, ...words(its, components, depth + 1)]);
}
