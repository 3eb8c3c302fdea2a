// Two turns over a WebSocket, the second a continuation of the first, through the OpenAI Node SDK.

import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const socket = new ResponsesWS(client);
const settings = { type: "response.create", model: "demo", temperature: 0, store: false };
const done = [];

socket.on("response.completed", (event) => {
  done.push(event.response);
  if (done.length === 2) {
    console.log(JSON.stringify(done));
    socket.close();
    return;
  }
  socket.send({ ...settings, input: "What is my name?", previous_response_id: event.response.id });
});
socket.on("error", (error) => {
  console.error(String(error));
  process.exit(1);
});
socket.send({ ...settings, input: "My name is Zorblat." });
