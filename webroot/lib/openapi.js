/** An OpenAPI document as a page shows it: operations by group, schemas as rows, a command to try each. */

/**
 * @typedef {object} Operation
 * @property {string} id
 * @property {string} method
 * @property {string} path
 * @property {string} summary
 * @property {string} help
 * @property {string} tag
 * @property {any[]} parameters
 * @property {{type: string, schema: any, example: any}|null} body
 * @property {{status: string, help: string, type: string, schema: any}[]} responses
 * @property {{client: SocketEvent[], server: SocketEvent[]}|null} socket
 */
/** @typedef {{type: string, description: string, schema: any}} SocketEvent */
/** @typedef {{depth: number, name: string, type: string, isRequired: boolean, help: string}} Row */

const METHODS = ["get", "post", "put", "patch", "delete"];
const MAX_DEPTH = 6;

/** The operations in groups, in their own order. @param {any} api @returns {Map<string, Operation[]>} */
export function groups(api) {
  /** @type {Map<string, Operation[]>} */
  const found = new Map();
  for (const [path, entry] of Object.entries(api?.paths ?? {})) {
    for (const method of METHODS) {
      if (entry[method]) {
        const one = operation(api, path, method, entry[method]);
        found.set(one.tag, [...(found.get(one.tag) ?? []), one]);
      }
    }
  }
  return found;
}

/** @param {any} api @param {string} path @param {string} method @param {any} entry @returns {Operation} */
function operation(api, path, method, entry) {
  const [type, content] = Object.entries(entry.requestBody?.content ?? {})[0] ?? ["", null];
  return {
    id: entry.operationId,
    method: entry["x-websocket"] ? "ws" : method,
    path,
    summary: entry.summary ?? "",
    help: entry.description ?? "",
    tag: entry.tags?.[0] ?? "",
    parameters: entry.parameters ?? [],
    body: content && { type, schema: resolved(api, content.schema), example: content.example },
    responses: Object.entries(entry.responses ?? {}).map(([status, response]) => answer(api, status, response)),
    socket: entry["x-websocket"] ?? null,
  };
}

/** @param {any} api @param {string} status @param {any} response */
function answer(api, status, response) {
  const [type, content] = Object.entries(response.content ?? {})[0] ?? ["", null];
  return { status, help: response.description ?? "", type, schema: resolved(api, content?.schema) };
}

/** @param {any} api @param {any} schema */
function resolved(api, schema) {
  const name = schema?.$ref?.replace("#/components/schemas/", "");
  return name ? api.components?.schemas?.[name] : schema;
}

/** What a schema allows, in a few words. @param {any} schema @returns {string} */
export function typeText(schema) {
  if (!schema || !Object.keys(schema).length) return "any";
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((/** @type {any} */ value) => JSON.stringify(value)).join(" | ");
  if (schema.anyOf) return [...new Set(schema.anyOf.map(typeText))].join(" | ");
  if (schema.type === "array") return listText(typeText(schema.items));
  if (schema.format === "binary") return "file";
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type ?? "any";
  return type + bounds(schema);
}

/** @param {string} item */
const listText = (item) => (item.includes(" | ") ? `(${item})[]` : `${item}[]`);

/** @param {any} schema */
function bounds({ minimum, maximum }) {
  if (minimum === undefined && maximum === undefined) return "";
  return ` ${minimum ?? ""}…${maximum ?? ""}`;
}

/** The fields of a schema, those of inner objects one step deeper. @param {any} schema @param {number} [depth] @returns {Row[]} */
export function rows(schema, depth = 0) {
  const inner = objectIn(schema);
  if (!inner || depth > MAX_DEPTH) return [];
  return Object.entries(inner.properties ?? {}).flatMap(([name, field]) => [
    { depth, name, type: typeText(field), isRequired: inner.required?.includes(name) ?? false, help: /** @type {any} */ (field).description ?? "" },
    ...rows(field, depth + 1),
  ]);
}

/** The object that a schema is, or holds; of several all fields. @param {any} schema @returns {any} */
function objectIn(schema) {
  if (schema?.properties) return schema;
  if (schema?.type === "array") return objectIn(schema.items);
  const options = (schema?.anyOf ?? []).map(objectIn).filter(Boolean);
  return options.length ? options.reduce(together) : null;
}

/** @param {any} one @param {any} other */
function together(one, other) {
  const properties = { ...one.properties };
  for (const [name, field] of Object.entries(other.properties)) {
    properties[name] = name in properties ? { anyOf: [properties[name], field] } : field;
  }
  return { properties, required: (one.required ?? []).filter((/** @type {string} */ name) => other.required?.includes(name)) };
}

/** True when every word of *query* occurs in the operation. @param {Operation} operation @param {string} query */
export function matches({ method, path, summary, tag }, query) {
  const text = `${method} ${path} ${summary} ${tag}`.toLowerCase();
  return query.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** A command that asks this. @param {Operation} operation @param {string} origin */
export function curl({ method, path, body }, origin) {
  const words = ["curl"];
  if (origin.startsWith("https")) words.push("-k");
  if (method !== "get") words.push("-X", method.toUpperCase());
  words.push(`'${origin}${path}'`);
  if (body?.type === "application/json") {
    words.push("-H 'Content-Type: application/json'", `-d '${JSON.stringify(body.example ?? sample(body.schema))}'`);
  } else if (body) {
    words.push("-F 'file=@recording.wav'");
  }
  return words.join(" ");
}

/** The least that a schema takes. @param {any} schema @returns {any} */
function sample(schema) {
  if (!schema) return {};
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  if (schema.anyOf) return sample(schema.anyOf[0]);
  if (schema.properties) return Object.fromEntries((schema.required ?? []).map((/** @type {string} */ name) => [name, sample(schema.properties[name])]));
  if (schema.type === "array") return schema.minItems ? [sample(schema.items)] : [];
  /** @type {Record<string, any>} */
  const least = { string: "…", integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: true };
  return least[schema.type] ?? {};
}
