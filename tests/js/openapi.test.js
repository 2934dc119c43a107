import assert from "node:assert/strict";
import { test } from "node:test";

import { curl, groups, matches, rows, typeText } from "../../webroot/lib/openapi.js";

const DOCUMENT = {
  paths: {
    "/a/{id}": {
      get: { operationId: "get_a", summary: "Get a", tags: ["One"], parameters: [{ name: "id", in: "path", required: true, schema: { type: "string" } }], responses: { 404: { description: "Not Found", content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } } } } },
      post: {
        operationId: "post_a", summary: "Change a", tags: ["Two"],
        requestBody: { content: { "application/json": { schema: { type: "object", required: ["n"], properties: { n: { type: "integer", minimum: 1 }, list: { type: "array", items: { type: "object", properties: { x: { enum: ["p", "q"] } } } } } } } } },
        responses: { 200: { description: "OK" } },
      },
    },
    "/ws": { get: { operationId: "get_ws", tags: ["One"], "x-websocket": { client: [], server: [] }, responses: {} } },
  },
  components: { schemas: { Error: { type: "object", properties: { detail: { type: "string" } } } } },
};

test("operations are grouped in their own order", () => {
  const found = groups(DOCUMENT);
  assert.deepEqual([...found].map(([tag, all]) => [tag, all.map(({ method, path }) => `${method} ${path}`)]), [
    ["One", ["get /a/{id}", "ws /ws"]],
    ["Two", ["post /a/{id}"]],
  ]);
  assert.equal(found.get("One")?.[0].responses[0].schema.properties.detail.type, "string");
  assert.equal(groups(null).size, 0);
});

test("a schema is shown in rows, inner fields deeper", () => {
  const [body] = (groups(DOCUMENT).get("Two") ?? []).map((one) => one.body);
  assert.deepEqual(rows(body?.schema), [
    { depth: 0, name: "n", type: "integer 1…", isRequired: true, help: "" },
    { depth: 0, name: "list", type: "object[]", isRequired: false, help: "" },
    { depth: 1, name: "x", type: '"p" | "q"', isRequired: false, help: "" },
  ]);
});

test("the fields of all kinds of an item are shown", () => {
  const part = (/** @type {string} */ kind, /** @type {string} */ name) => ({ type: "object", required: ["type", name], properties: { type: { const: kind }, [name]: { type: "string" } } });
  const items = { anyOf: [part("text", "text"), part("image", "data")] };
  assert.equal(typeText({ anyOf: [{ type: "string" }, { type: "array", items }] }), "string | object[]");
  assert.deepEqual(rows({ type: "array", items }).map(({ name, type, isRequired }) => [name, type, isRequired]), [
    ["type", '"text" | "image"', true],
    ["text", "string", false],
    ["data", "string", false],
  ]);
});

test("types are said in a few words", () => {
  assert.equal(typeText({}), "any");
  assert.equal(typeText({ anyOf: [{ type: "string" }, { type: "null" }] }), "string | null");
  assert.equal(typeText({ const: "text" }), '"text"');
  assert.equal(typeText({ type: "number", minimum: 0, maximum: 2 }), "number 0…2");
  assert.equal(typeText({ type: "string", format: "binary" }), "file");
});

test("a command can be copied as it stands", () => {
  const [get, post] = [groups(DOCUMENT).get("One")?.[0], groups(DOCUMENT).get("Two")?.[0]];
  assert.equal(get && curl(get, "http://h"), "curl 'http://h/a/{id}'");
  assert.equal(post && curl(post, "https://h"), `curl -k -X POST 'https://h/a/{id}' -H 'Content-Type: application/json' -d '{"n":1}'`);
});

test("a search finds operations by any of their words", () => {
  const one = groups(DOCUMENT).get("Two")?.[0];
  assert.ok(one && matches(one, "post CHANGE") && matches(one, "") && !matches(one, "delete"));
});
