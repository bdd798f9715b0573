"""Conversations that make_templates.py renders: what chats hold in practice, and what breaks templates."""

TOOL_A = {"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.",
          "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Name, e.g. \"Zürich\""},
                                                          "days": {"type": "integer", "default": 1, "enum": [1, 3, 7]}},
                         "required": ["city"]}}}
TOOL_B = {"type": "function", "function": {"name": "add", "description": "a + b", "parameters": {"type": "object", "properties": {
          "a": {"type": "number"}, "b": {"type": ["number", "null"]}}, "required": ["a", "b"]}}}


def m(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, index=0):
    return {"id": f"call0000{index}", "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "one": [m("user", "Hello")],
    "system": [m("system", "You are brief."), m("user", "Hello")],
    "systems": [m("system", "First."), m("system", "Second."), m("user", "Hi"), m("assistant", "Yes?"), m("user", "Go on")],
    "late_system": [m("user", "Hi"), m("system", "Now rhyme."), m("assistant", "Sky."), m("user", "More")],
    "turns": [m("user", "1+1?"), m("assistant", "2"), m("user", "2+2?"), m("assistant", "4"), m("user", "  thanks \n")],
    "ends_assistant": [m("user", "Say a"), m("assistant", "a")],
    "starts_assistant": [m("assistant", "Welcome."), m("user", "Hi")],
    "two_users": [m("user", "a"), m("user", "b")],
    "empty": [m("user", ""), m("assistant", ""), m("user", "")],
    "spaces": [m("user", " \n x \t"), m("assistant", "\n\ny\n\n"), m("user", "\u00a0z\u3000")],
    "unicode": [m("user", "Grüße, 你好 😀 <|im_end|> {{ x }} {% y %}"), m("assistant", "наст\u0301 \u202e \"q\" 'a' \\ /")],
    "markup": [m("user", "<b>&amp;</b> \"x\" 'y'"), m("assistant", "ok")],
    "thinking": [m("user", "Why?"), m("assistant", "<think>\nBecause\n</think>\n\nSo."), m("user", "And?"), m("assistant", "</think>odd")],
    "reasoning": [m("user", "Why?"), m("assistant", "So.", reasoning_content="Because."), m("user", "And?")],
    "call": [m("user", "Weather?"), m("assistant", "", tool_calls=[call("get_weather", {"city": "Bern", "days": 3})])],
    "call_text": [m("user", "Weather?"), m("assistant", "I look.", tool_calls=[call("get_weather", "{\"city\": \"Bern\"}")])],
    "call_null": [m("user", "Weather?"), m("assistant", None, tool_calls=[call("get_weather", {"city": "Bern"})]),
                  m("tool", "{\"t\": 3}", tool_call_id="call00000", name="get_weather"), m("assistant", "3 degrees."), m("user", "Thanks")],
    "calls": [m("user", "Both"), m("assistant", None, tool_calls=[call("get_weather", {"city": "Bern"}), call("add", {"a": 1, "b": 2.5}, 1)]),
              m("tool", "sunny", tool_call_id="call00000"), m("tool", "3.5", tool_call_id="call00001"), m("assistant", "Sunny; 3.5.")],
    "parts": [m("user", [{"type": "text", "text": "Look:"}, {"type": "image"}, {"type": "text", "text": "what?"}]), m("assistant", "A cat.")],
    "no_content": [{"role": "user"}],
    "odd_role": [m("user", "x"), m("critic", "y")],
    "number": [m("user", 5), m("assistant", True)],
}
