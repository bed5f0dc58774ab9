// Questions to a server by the openai package: `node openai.mjs URL PICTURE TOOL`, what came back as JSON.

import {readFile} from "node:fs/promises";
import OpenAI from "openai";

const [baseURL, picture, tool] = process.argv.slice(2);
const client = new OpenAI({baseURL, apiKey: "none", maxRetries: 0});
const ask = (content, more = {}) => client.chat.completions.create(
    {model: "tiny", temperature: 0, max_tokens: 64, messages: [{role: "user", content}], ...more}
);
const sum = "What is 47 + 38?";

const models = (await client.models.list()).data.map(({id}) => id);
const answer = (await ask(sum)).choices[0].message.content;
const deltas = [];
for await (const chunk of await ask(sum, {stream: true})) deltas.push(chunk.choices[0]?.delta.content);

const weather = "What is the weather in Oslo?";
const tools = [{type: "function", function: JSON.parse(tool)}];
const call = (await ask(weather, {tools})).choices[0].message;
const returned = {role: "tool", tool_call_id: call.tool_calls[0].id, content: "rain, 7 degrees"};
const told = (await ask("", {tools, messages: [{role: "user", content: weather}, call, returned]})).choices[0].message.content;

const url = `data:image/png;base64,${(await readFile(picture)).toString("base64")}`;
const seen = (await ask([{type: "image_url", image_url: {url}}, {type: "text", text: "What number is this?"}])).choices[0].message.content;

const schema = {
    type: "object", properties: {colour: {enum: ["red", "blue"]}}, required: ["colour"], additionalProperties: false
};
const response_format = {type: "json_schema", json_schema: {name: "paint", strict: true, schema}};
const form = (await client.chat.completions.parse({
    model: "tiny", temperature: 0, messages: [{role: "user", content: "Which colour?"}], response_format
})).choices[0].message.content;

const error = await ask(sum, {temperature: -1}).catch((refused) => [refused.status, refused.param]);
console.log(JSON.stringify({
    models, answer, deltas: deltas.filter(Boolean), call, returned, told, seen, form: JSON.parse(form), error
}));
