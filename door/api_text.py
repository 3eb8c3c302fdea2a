"""The words of the API's description: what every endpoint does and what every field means."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

TITLE = "MLX server"
ABOUT = (
    "An OpenAI-compatible server for one language model on this machine. `model` is echoed back: "
    "one model is loaded, whatever a client calls it. Unknown fields are ignored; a field that is "
    "not honoured is refused with a 400 that names it."
)
TAGS = {
    "Chat": "A chat in, an answer out; the server remembers nothing.",
    "Responses": "Answers in a conversation that the server remembers.",
    "Conversations": "Conversation objects, and the items in them.",
    "Stored conversations": "What is kept and archived, for the pages of this server.",
    "Models": "The model that is loaded.",
    "Server": "How the server is.",
}

GENERATES = (400, 401, 413, 415, 422, 429, 500, 503)
READS_BODY = (400, 401, 404, 413, 415, 422)
LOOKS_UP = (401, 404, 422)
ERRORS = {
    400: "A field cannot be honoured, or the prompt does not fit the context window.",
    401: "The API key is missing or wrong.",
    403: "Only this server's own pages may ask.",
    404: "There is nothing of that name.",
    409: "It cannot be read like this: it is still being written, or it failed.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    422: "The body does not have the right shape; `param` says where.",
    429: "Too many requests wait; try again after `Retry-After` seconds.",
    500: "The server failed on this request.",
    503: "Not now: the model is loading, the server stops, or the engine has failed.",
}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What one method of one path does."""

    tag: str
    summary: str
    text: str
    answer: str
    """The answer in a sentence."""
    schema: str = ""
    """The answer's schema, by name; empty for one that is not JSON."""
    stream: str = ""
    """Two or three events, where the answer can be a stream."""
    errors: tuple[int, ...] = LOOKS_UP
    examples: Json = field(default_factory=dict)
    """Bodies to send, under the words that say what they try."""
    files: tuple[str, ...] = ()
    """The kinds of file that the answer can be, where it is one."""


HELLO = [{"role": "user", "content": "Hello!"}]
WEATHER: Json = {
    "name": "get_weather",
    "description": "Get the weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CITY: Json = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "country": {"type": "string"}},
    "required": ["city", "country"],
    "additionalProperties": False,
}
QUESTION = "Where is the Eiffel tower?"

ENDPOINTS: dict[tuple[str, str], Endpoint] = {
    ("post", "/v1/chat/completions"): Endpoint(
        "Chat",
        "Answer a chat",
        "Answers the last message, whole or as a stream of chunks that ends with `[DONE]`. What a "
        "model thinks comes as `reasoning` beside the `content`.",
        "The completion; with `stream`, its chunks as server-sent events.",
        "ChatCompletion",
        'data: {"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"Hello"'
        '},"finish_reason":null}]}\n\ndata: [DONE]\n\n',
        GENERATES,
        {
            "Streamed": {"messages": HELLO, "max_tokens": 200, "stream": True},
            "Whole": {"messages": HELLO, "max_tokens": 200},
            "With a tool": {
                "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
                "tools": [{"type": "function", "function": WEATHER}],
                "stream": True,
            },
            "JSON of a schema": {
                "messages": [{"role": "user", "content": QUESTION}],
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "place", "schema": CITY},
                },
                "max_tokens": 200,
            },
        },
    ),
    ("post", "/v1/responses"): Endpoint(
        "Responses",
        "Make a response",
        "Answers `input`, and remembers both: `previous_response_id` or `conversation` goes on "
        "from there. With `background`, the response is made whether or not anybody waits.",
        "The response; with `stream`, its events as server-sent events.",
        "Response",
        'event: response.output_text.delta\ndata: {"type":"response.output_text.delta",'
        '"sequence_number":4,"delta":"Hello"}\n\ndata: [DONE]\n\n',
        (*GENERATES, 404, 409),
        {
            "Streamed": {"input": "Hello!", "max_output_tokens": 200, "stream": True},
            "Whole": {"input": "Hello!", "max_output_tokens": 200},
            "In the background": {"input": "Tell me a story.", "background": True},
            "With a tool": {
                "input": "What is the weather in Paris?",
                "tools": [{"type": "function", **WEATHER}],
                "stream": True,
            },
            "JSON of a schema": {
                "input": QUESTION,
                "text": {"format": {"type": "json_schema", "name": "place", "schema": CITY}},
                "max_output_tokens": 200,
            },
        },
    ),
    ("post", "/v1/responses/input_tokens"): Endpoint(
        "Responses",
        "Count a prompt's tokens",
        "Takes what a response takes, and answers nothing.",
        "The number of tokens.",
        "InputTokens",
        errors=(*READS_BODY, 503),
        examples={"A prompt": {"input": "Hello!"}},
    ),
    ("post", "/v1/responses/compact"): Endpoint(
        "Responses",
        "Put one item in the place of many",
        "Makes a compaction item that stands for a conversation whose oldest turns may go.",
        "The compaction.",
        "Compaction",
        errors=(*READS_BODY, 503),
        examples={"A prompt": {"model": "any", "input": "Hello!"}},
    ),
    ("get", "/v1/responses/{response_id}"): Endpoint(
        "Responses",
        "Read a response",
        "As it stands, also while it is made. With `stream`, its events again, from the one "
        "after `starting_after`.",
        "The response.",
        "Response",
        'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n',
        (400, *LOOKS_UP, 409),
    ),
    ("delete", "/v1/responses/{response_id}"): Endpoint(
        "Responses",
        "Delete a response",
        "Final, on the disk too.",
        "What was deleted.",
        "Deleted",
    ),
    ("post", "/v1/responses/{response_id}/cancel"): Endpoint(
        "Responses",
        "Cancel a response",
        "Stops a response that is being made. Harmless when it is over.",
        "The response.",
        "Response",
    ),
    ("get", "/v1/responses/{response_id}/input_items"): Endpoint(
        "Responses",
        "List what a response answered",
        "The items of its input, page by page.",
        "A page of items.",
        "ItemList",
        errors=(400, *LOOKS_UP),
    ),
    ("post", "/v1/conversations"): Endpoint(
        "Conversations",
        "Begin a conversation",
        "An object whose id `POST /v1/responses` takes as `conversation`.",
        "The conversation.",
        "Conversation",
        errors=READS_BODY,
        examples={
            "With a message": {
                "items": [{"role": "user", "content": "My name is Zorblat."}],
                "metadata": {"topic": "names"},
            }
        },
    ),
    ("get", "/v1/conversations/{conversation_id}"): Endpoint(
        "Conversations",
        "Read a conversation",
        "Its id, its time and its metadata.",
        "The conversation.",
        "Conversation",
    ),
    ("post", "/v1/conversations/{conversation_id}"): Endpoint(
        "Conversations",
        "Change a conversation's metadata",
        "Puts new metadata in the place of the old.",
        "The conversation.",
        "Conversation",
        errors=READS_BODY,
        examples={"New metadata": {"metadata": {"topic": "names"}}},
    ),
    ("delete", "/v1/conversations/{conversation_id}"): Endpoint(
        "Conversations",
        "Delete a conversation",
        "Final, on the disk too.",
        "What was deleted.",
        "Deleted",
    ),
    ("post", "/v1/conversations/{conversation_id}/items"): Endpoint(
        "Conversations",
        "Add items",
        "At the conversation's end.",
        "The items, with their ids.",
        "ItemList",
        errors=READS_BODY,
        examples={"A message": {"items": [{"role": "user", "content": "Hello!"}]}},
    ),
    ("get", "/v1/conversations/{conversation_id}/items"): Endpoint(
        "Conversations",
        "List items",
        "Page by page.",
        "A page of items.",
        "ItemList",
        errors=(400, *LOOKS_UP),
    ),
    ("get", "/v1/conversations/{conversation_id}/items/{item_id}"): Endpoint(
        "Conversations", "Read an item", "One item.", "The item.", "Item"
    ),
    ("delete", "/v1/conversations/{conversation_id}/items/{item_id}"): Endpoint(
        "Conversations",
        "Delete an item",
        "It is gone for later answers, and on the disk.",
        "The conversation without it.",
        "Conversation",
    ),
    ("get", "/conversations"): Endpoint(
        "Stored conversations",
        "List stored conversations",
        "Newest first, whichever client made them, also those that are archived. `q` searches.",
        "A page of conversations.",
        "StoredList",
        errors=(400, 401, 403, 422),
    ),
    ("get", "/conversations/{conversation_id}"): Endpoint(
        "Stored conversations",
        "Read a stored conversation",
        "Every turn and every branch.",
        "The conversation as a tree.",
        "StoredConversation",
        errors=(401, 403, 404, 422),
    ),
    ("delete", "/conversations/{conversation_id}"): Endpoint(
        "Stored conversations",
        "Delete a stored conversation",
        "With all its branches; final, on the disk too.",
        "What was deleted.",
        "Deleted",
        errors=(401, 403, 404, 422),
    ),
    ("get", "/conversations/{conversation_id}/export"): Endpoint(
        "Stored conversations",
        "Export a stored conversation",
        "One branch as Markdown, or as JSON lines: messages for a chat. JSON is the whole tree, as "
        "it is archived.",
        "A file.",
        files=("text/markdown", "application/json", "application/jsonl"),
        errors=(401, 403, 404, 422),
    ),
    ("get", "/v1/models"): Endpoint(
        "Models",
        "List models",
        "There is one.",
        "The model, its context window, and what it can do.",
        "ModelList",
        errors=(401,),
    ),
    ("get", "/v1/models/{model}"): Endpoint(
        "Models",
        "Read the model",
        "By its name.",
        "The model.",
        "Model",
    ),
    ("get", "/health"): Endpoint(
        "Server",
        "Look after the server",
        "200 when it can serve, else 503; answers while the model works. Needs no key.",
        "The server is well.",
        "Health",
        errors=(),
    ),
    ("get", "/metrics"): Endpoint(
        "Server",
        "Read the figures",
        "For Prometheus, under vLLM's names with the prefix `mlx:`.",
        "The figures, as Prometheus reads them.",
        errors=(401,),
    ),
}

PATH_TEXT = {
    "response_id": "The response's `id`.",
    "conversation_id": "The conversation's `id`.",
    "item_id": "The item's `id`.",
    "model": "The model's `id`.",
    "stream": "Read the events instead of the response.",
    "starting_after": "The `sequence_number` after which to go on.",
    "order": "`asc` for the oldest first, `desc` for the newest.",
    "after": "The `id` after which the page begins.",
    "limit": "How many at most.",
    "q": "Words to find.",
    "format": "`md` to read, `jsonl` for a model, `json` for another server's archive.",
}

EFFORT = (
    "`none`, `minimal`, `low`, `medium`, `high` or `xhigh`, said to the model in its own words; "
    "`none` turns thinking off."
)
FIELDS = {
    "model": "Any name: it is echoed back.",
    "stream": "Send the answer while it is made, as server-sent events.",
    "temperature": "How much chance there is in the choice of words; 0 takes the likeliest token.",
    "top_p": "Choose among the likeliest tokens whose probabilities add up to this.",
    "top_k": "Choose among so many of the likeliest tokens; 0 is all.",
    "min_p": "Choose among tokens at least this likely, as a share of the likeliest one.",
    "repetition_penalty": "Above 1, tokens of the prompt and the answer become less likely.",
    "presence_penalty": "Above 0, tokens that the answer has used become less likely.",
    "frequency_penalty": "Above 0, tokens become less likely with each use in the answer.",
    "top_logprobs": "So many of the likeliest tokens at each place, with log-probabilities.",
    "seed": "The same request with the same seed gives the same answer.",
    "stop": "Texts at which the answer ends; they are not part of it.",
    "tools": "Functions that the model may call.",
    "tool_choice": "`auto`, `none`, `required`, one function by name, or `allowed_tools`.",
    "parallel_tool_calls": "False: at most one call an answer.",
    "structured_outputs": (
        "What the text must look like, in vLLM's words: one of `json`, `json_object`, `regex`, "
        "`choice`, `grammar`."
    ),
    "enable_thinking": "False turns thinking off.",
    "max_reasoning_tokens": "Thinking is closed after so many tokens, and the answer follows.",
    "chat_template_kwargs": "Arguments for the model's chat template.",
    "messages": "The chat so far, oldest first.",
    "stream_options": "What a stream holds beside the answer.",
    "return_progress": "Tell in the stream how far the prompt has been read.",
    "keep_alive": "How long the model stays in memory after this request.",
    "n": "How many answers to make.",
    "max_tokens": "The longest answer, in tokens; cut to what the context has left.",
    "max_completion_tokens": "The same as `max_tokens`.",
    "max_output_tokens": "The longest answer, in tokens; cut to what the context has left.",
    "logit_bias": "Added to the scores of tokens, by their number in the vocabulary.",
    "logprobs": "Tell the log-probability of every token.",
    "functions": "The older name of `tools`.",
    "ChatRequest.function_call": "The older name of `tool_choice`.",
    "response_format": "`text`, `json_object`, or a `json_schema`; enforced token by token.",
    "reasoning_effort": EFFORT,
    "modalities": "Only `text`.",
    "audio": "Refused: the model does not speak.",
    "role": "`system`, `developer`, `user`, `assistant` or `tool`.",
    "ChatMessage.content": "What was said: a text, or parts that are texts.",
    "ChatMessage.reasoning": "What the model thought, to be given back with its message.",
    "reasoning_content": "The same as `reasoning`.",
    "tool_calls": "The calls in a message of the assistant.",
    "function_call": "The call in a message of the assistant, as older clients write it.",
    "tool_call_id": "The call that a tool's message answers.",
    "name": "Who speaks.",
    "type": "The kind of part; only `text` is read.",
    "ContentPart.text": "The text.",
    "refusal": "A refusal, given back as it came.",
    "include_usage": "A last chunk with the numbers of tokens.",
    "include_obfuscation": "Ignored: nothing is padded.",
    "input": "What to answer: a text, or a list of items.",
    "instructions": "A system message for this response only.",
    "previous_response_id": "The response to go on from.",
    "conversation": "The conversation to go on in: its id.",
    "reasoning": "How much to think.",
    "text": "The form of the answer's text.",
    "truncation": "`auto` drops the oldest turns of a prompt that does not fit.",
    "max_tool_calls": "The answer ends with so many calls.",
    "store": "False leaves no trace.",
    "background": "Make the response whether or not anybody waits.",
    "include": "What else to tell, such as `message.output_text.logprobs`.",
    "metadata": "Up to 16 texts of your own, kept with the object.",
    "prompt": "Refused: prompts are stored at OpenAI only.",
    "user": "Echoed.",
    "safety_identifier": "Echoed.",
    "prompt_cache_key": "Echoed: equal prefixes are found without it.",
    "effort": EFFORT,
    "summary": "Echoed: thinking is always told in full.",
    "generate_summary": "The older name of `summary`.",
    "TextOptions.format": "`text`, `json_object`, or a `json_schema`; enforced token by token.",
    "items": "What is said, oldest first.",
}
"""By field, or by model and field where a word means two things."""

STORED: Json = {
    "id": {"type": "string"},
    "title": {"type": "string", "description": "The first words of its first user."},
    "source": {"type": "string", "description": "The client that began it, in a word."},
    "created_at": {"type": "integer", "description": "Seconds since 1970."},
    "updated_at": {"type": "integer", "description": "When its last turn began."},
}
"""What is said of a stored conversation wherever it is shown."""

SCHEMAS: Json = {
    "Error": {
        "description": "Every failure has this form.",
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string", "description": "A sentence for people."},
                    "type": {"type": "string", "description": "The kind of failure."},
                    "param": {
                        "type": ["string", "null"],
                        "description": "The field at fault, such as `messages[0].content`.",
                    },
                    "code": {"type": ["string", "null"], "description": "A word for programs."},
                },
            },
            "detail": {
                "type": "array",
                "items": {"type": "object"},
                "description": "Of a 422: every problem, with its place.",
            },
        },
        "example": {
            "error": {
                "message": "temperature: must be less than or equal to 2",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "invalid_value",
            }
        },
    },
    "Usage": {
        "description": "Tokens of a chat.",
        "type": "object",
        "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
        "properties": {
            "prompt_tokens": {"type": "integer"},
            "completion_tokens": {"type": "integer"},
            "total_tokens": {"type": "integer"},
            "prompt_tokens_details": {
                "type": "object",
                "description": "`cached_tokens` were not computed anew.",
            },
            "completion_tokens_details": {
                "type": "object",
                "description": "`reasoning_tokens` were thinking.",
            },
        },
    },
    "ChatCompletion": {
        "description": "The answers to a chat.",
        "type": "object",
        "required": ["id", "object", "created", "model", "choices"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "chat.completion"},
            "created": {"type": "integer", "description": "Seconds since 1970."},
            "model": {"type": "string", "description": "As the request called it."},
            "system_fingerprint": {"type": ["string", "null"]},
            "choices": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["index", "message", "finish_reason"],
                    "properties": {
                        "index": {"type": "integer"},
                        "message": {"type": "object"},
                        "logprobs": {"type": ["object", "null"]},
                        "finish_reason": {
                            "enum": ["stop", "length", "tool_calls", "function_call"]
                        },
                    },
                },
            },
            "usage": {"$ref": "#/components/schemas/Usage"},
        },
    },
    "Response": {
        "description": "A response: what was asked, how it stands, and its output.",
        "type": "object",
        "required": ["id", "object", "created_at", "status", "model", "output"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "response"},
            "created_at": {"type": "number", "description": "Seconds since 1970."},
            "status": {
                "enum": [
                    "queued",
                    "in_progress",
                    "completed",
                    "incomplete",
                    "failed",
                    "cancelled",
                ]
            },
            "model": {"type": "string", "description": "As the request called it."},
            "output": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "usage": {"type": ["object", "null"]},
            "error": {"type": ["object", "null"]},
        },
    },
    "Item": {
        "description": "A message, a call, a result, thinking: its `type` says which.",
        "type": "object",
    },
    "ItemList": {
        "description": "A page of a list.",
        "type": "object",
        "required": ["object", "data", "has_more"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean", "description": "Ask again with `after=last_id`."},
        },
    },
    "StoredList": {
        "description": "A page of the list of stored conversations.",
        "type": "object",
        "required": ["object", "data", "first_id", "last_id", "has_more", "is_complete"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/StoredSummary"}},
            "first_id": {"type": ["string", "null"]},
            "last_id": {"type": ["string", "null"]},
            "has_more": {"type": "boolean", "description": "Ask again with `after=last_id`."},
            "is_complete": {
                "type": "boolean",
                "description": "Whether the search looked at all; there is more than it reads.",
            },
        },
    },
    "StoredSummary": {
        "description": "A stored conversation in one line of the list.",
        "type": "object",
        "required": [
            "id",
            "object",
            "title",
            "source",
            "created_at",
            "updated_at",
            "num_responses",
            "last_response_id",
            "is_archived",
        ],
        "properties": {
            **STORED,
            "object": {"const": "conversation.summary"},
            "num_responses": {"type": "integer"},
            "last_response_id": {
                "type": ["string", "null"],
                "description": "What can be continued.",
            },
            "is_archived": {"type": "boolean", "description": "Whether it lies on the disk only."},
        },
    },
    "StoredConversation": {
        "description": "A stored conversation with all its branches.",
        "type": "object",
        "required": [
            "id",
            "object",
            "title",
            "source",
            "created_at",
            "updated_at",
            "is_conversation",
            "turns",
        ],
        "properties": {
            **STORED,
            "object": {"const": "conversation.tree"},
            "is_conversation": {
                "type": "boolean",
                "description": "Whether it is a conversation object, with a `conv_` id.",
            },
            "turns": {"type": "array", "items": {"$ref": "#/components/schemas/Turn"}},
        },
    },
    "Turn": {
        "description": "What one response added to a conversation, or items added by hand.",
        "type": "object",
        "required": ["turn", "follows", "created", "source", "in_conversation", "input"],
        "properties": {
            "turn": {"type": "integer", "description": "Its number, from 1."},
            "follows": {
                "type": ["integer", "null"],
                "description": "The number of the turn before it.",
            },
            "created": {"type": "string", "format": "date-time"},
            "source": {"type": "string", "description": "The user agent that asked."},
            "in_conversation": {
                "type": "boolean",
                "description": "Whether it is part of the conversation object.",
            },
            "input": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
            "response": {
                "anyOf": [{"$ref": "#/components/schemas/Response"}, {"type": "null"}],
                "description": "Null where it was deleted, or where there never was one.",
            },
            "output": {
                "type": "array",
                "items": {"$ref": "#/components/schemas/Item"},
                "description": "In place of a response: the items that it left behind.",
            },
            "timings": {
                "anyOf": [{"$ref": "#/components/schemas/Timings"}, {"type": "null"}],
                "description": "How quickly the response came, where it is known.",
            },
        },
    },
    "Timings": {
        "description": "How quickly an answer came, as the server measured it.",
        "type": "object",
        "properties": {
            "first_token_s": {
                "type": ["number", "null"],
                "description": "Seconds to the first token.",
            },
            "thinking_s": {"type": ["number", "null"], "description": "Seconds of thinking."},
            "tokens_per_s": {"type": ["number", "null"], "description": "From first to last."},
        },
    },
    "InputTokens": {
        "description": "The length of a prompt.",
        "type": "object",
        "required": ["object", "input_tokens"],
        "properties": {
            "object": {"const": "response.input_tokens"},
            "input_tokens": {"type": "integer"},
        },
    },
    "Compaction": {
        "description": "A shorter conversation.",
        "type": "object",
        "required": ["object", "output"],
        "properties": {
            "object": {"const": "response.compaction"},
            "output": {"type": "array", "items": {"$ref": "#/components/schemas/Item"}},
        },
    },
    "Conversation": {
        "description": "A conversation.",
        "type": "object",
        "required": ["id", "object", "created_at", "metadata"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "conversation"},
            "created_at": {"type": "integer", "description": "Seconds since 1970."},
            "metadata": {"type": ["object", "null"]},
        },
    },
    "Deleted": {
        "description": "What is gone.",
        "type": "object",
        "required": ["id", "object", "deleted"],
        "properties": {
            "id": {"type": "string"},
            "object": {"type": "string"},
            "deleted": {"const": True},
        },
    },
    "Model": {
        "description": "The loaded model.",
        "type": "object",
        "required": ["id", "object", "created", "owned_by"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer", "description": "Seconds since 1970."},
            "owned_by": {"type": "string"},
            "context_window": {"type": "integer", "description": "Prompt and answer, in tokens."},
            "capabilities": {
                "type": "object",
                "description": "Whether it thinks, and whether it calls tools.",
            },
        },
    },
    "ModelList": {
        "description": "The models: one.",
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "Health": {
        "description": "How the server is.",
        "type": "object",
        "required": ["status", "model", "queue"],
        "properties": {
            "status": {"type": "string", "description": "`ok`, or what is wrong."},
            "reason": {"type": "string", "description": "Why it is not `ok`."},
            "model": {"type": "string"},
            "context_window": {"type": ["integer", "null"]},
            "queue": {
                "type": "object",
                "description": "How many requests are `running` and `waiting`.",
            },
            "memory": {
                "type": "object",
                "description": "Bytes: `limit`, `active`, `kv_caches`, `prefix_cache`.",
            },
            "stalled_s": {"type": "number", "description": "Seconds without a step."},
            "failed_steps": {"type": "integer"},
            "archive": {"type": "string"},
            "uptime_s": {"type": "number"},
            "version": {"type": "string"},
        },
    },
}
