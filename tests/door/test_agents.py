"""The OpenAI Agents SDK against the demo model: tools, a handoff, and every kind of memory.

The model makes every call by itself, the handoff too: to it, another agent is one more tool. It is
too small to guess which agent is meant, so it is told the tool's name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from agents import (
    Agent,
    HandoffOutputItem,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    RunResult,
    SQLiteSession,
    Tool,
    function_tool,
)
from agents.memory import Session
from openai import AsyncOpenAI

from tests.serving import Running

WITHOUT_TRACING = RunConfig(tracing_disabled=True)
INSTRUCTIONS = "You are a helpful assistant."
Talk = Callable[[AsyncOpenAI], Coroutine[Any, Any, None]]


def talk(server: Running, chat: Talk) -> None:
    """Run a talk with a client for it."""

    async def run() -> None:
        async with connected(server) as client:
            await chat(client)

    asyncio.run(run())


@asynccontextmanager
async def connected(server: Running) -> AsyncIterator[AsyncOpenAI]:
    url = f"{server.base_url}/v1"
    async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def agent(client: AsyncOpenAI, name: str = "Helper", **options: Any) -> Agent[None]:
    return Agent(
        name=name,
        model=OpenAIResponsesModel(model="demo", openai_client=client),
        model_settings=ModelSettings(temperature=0, max_tokens=300),
        **{"instructions": INSTRUCTIONS, **options},
    )


async def run(agent: Agent[None], text: str, **options: Any) -> RunResult:
    return await Runner.run(agent, text, run_config=WITHOUT_TRACING, max_turns=4, **options)


def tools(calls: list[tuple[str, str]], *, strict: bool = True) -> list[Tool]:
    """Two tools that note how they are called."""

    def get_weather(city: str) -> str:
        """Get the weather in a city."""
        calls.append(("get_weather", city))
        return "sunny, 21 degrees"

    def get_time(city: str) -> str:
        """Get the current time in a city."""
        calls.append(("get_time", city))
        return "12:30"

    return [function_tool(tool, strict_mode=strict) for tool in (get_weather, get_time)]


@pytest.mark.parametrize("strict", [True, False])
def test_an_agent_with_two_tools_calls_what_it_needs(demo_server: Running, strict: bool) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        calls: list[tuple[str, str]] = []
        helper = agent(client, tools=tools(calls, strict=strict))
        await run(helper, "What is the weather in Kelmora?")
        assert calls == [("get_weather", "Kelmora")]
        result = await run(helper, "What is the weather in Paris? And what is the time in Rome?")
        assert calls[1:] == [("get_weather", "Paris"), ("get_time", "Rome")]
        assert "sunny" in result.final_output
        assert "12:30" in result.final_output

    talk(demo_server, chat)


def test_a_streamed_run_tells_of_its_tools(demo_server: Running) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        calls: list[tuple[str, str]] = []
        helper = agent(client, tools=tools(calls))
        result = Runner.run_streamed(
            helper, "What is the weather in Kelmora?", run_config=WITHOUT_TRACING
        )
        names = [e.name async for e in result.stream_events() if e.type == "run_item_stream_event"]
        assert calls == [("get_weather", "Kelmora")]
        assert {"tool_called", "tool_output", "message_output_created"} <= set(names)

    talk(demo_server, chat)


def test_an_agent_hands_over_to_another(demo_server: Running) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        expert = agent(client, "Spanish", handoff_description="Speaks Spanish")
        desk = agent(client, "Desk", handoffs=[expert])
        result = await run(desk, "Call transfer_to_spanish.")
        assert any(isinstance(item, HandoffOutputItem) for item in result.new_items)
        assert result.last_agent is expert
        assert result.final_output

    talk(demo_server, chat)


def of_the_client(client: AsyncOpenAI) -> Session:
    return SQLiteSession("a session")


def of_the_server(client: AsyncOpenAI) -> Session:
    return OpenAIConversationsSession(openai_client=client)


@pytest.mark.parametrize("make_session", [of_the_client, of_the_server])
def test_a_session_remembers_a_name(
    demo_server: Running, make_session: Callable[[AsyncOpenAI], Session]
) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        helper, session = agent(client), make_session(client)
        await run(helper, "My name is Zorblat.", session=session)
        result = await run(helper, "What is my name?", session=session)
        assert "Zorblat" in result.final_output
        assert len(await session.get_items()) >= 4
        await session.clear_session()
        result = await run(helper, "What is my name?", session=session)
        assert "Zorblat" not in result.final_output

    talk(demo_server, chat)


def test_the_server_remembers_by_the_last_response(demo_server: Running) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        helper = agent(client)
        first = await run(helper, "My name is Zorblat.")
        second = await run(helper, "What is my name?", previous_response_id=first.last_response_id)
        assert "Zorblat" in second.final_output

    talk(demo_server, chat)


def test_tools_are_called_within_a_conversation_of_the_server(demo_server: Running) -> None:
    async def chat(client: AsyncOpenAI) -> None:
        calls: list[tuple[str, str]] = []
        helper = agent(client, tools=tools(calls))
        question = "What is the weather in Kelmora?"
        for options in (
            {"conversation_id": (await client.conversations.create()).id},
            {"auto_previous_response_id": True},
        ):
            result = await run(helper, question, **options)
            assert calls.pop() == ("get_weather", "Kelmora")
            assert "sunny" in result.final_output

    talk(demo_server, chat)
