"""``gpt2fast chat``: at a terminal and through pipes; turns, commands, keys, the model's window."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gpt2fast import GPT2, CancelToken, GenerationOptions
from gpt2fast.cli import main
from gpt2fast.cli.chat_session import ChatSession
from gpt2fast.text.conversation import EOS_TEMPLATE, EosTurns, PlainText

ARGUMENTS = ["--seed", "7", "--max-new-tokens", "8"]
END, NEVER = 0, "95"  # the end-of-text token, and the token of a character that stories lack

Chat = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model() -> GPT2:
    return GPT2.from_pretrained()


@pytest.fixture
def chat(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Chat:
    """Runs a conversation through a pipe, in this process: exit status, standard output, standard error."""

    def call(typed: bytes | str, *arguments: str) -> tuple[int, str, str]:
        data = typed if isinstance(typed, bytes) else typed.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit_info:
            main(["chat", *ARGUMENTS, *arguments])
        assert isinstance(exit_info.value.code, int)
        return (exit_info.value.code, *capsys.readouterr())

    return call


def drawn(model: GPT2, prompt: list[int], seed: int = 7, most: int = 8) -> list[int]:
    return model.generate(prompt, seed=seed, max_new_tokens=most, eos_token_id=[]).token_ids


def checkpoint(embedded: Path, directory: Path, template: str | None = None) -> str:
    """A copy of the embedded model's checkpoint, with a chat template."""
    shutil.copytree(embedded, directory)
    if template is not None:
        (directory / "chat_template.jinja").write_text(template)
    return str(directory)


def test_a_model_of_plain_texts_goes_on_with_what_was_written(chat: Chat, model: GPT2) -> None:
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    text = encode("Once upon")
    text += drawn(model, text)
    first = decode(text[len(encode("Once upon")) :])
    text += encode("\nThe wolf")
    second = drawn(model, text)
    third = drawn(model, text + second)  # an empty line adds nothing
    shown = f"{first}\n{decode(second)}\n{decode(third)}\n"
    assert chat("Once upon\nThe wolf\n\n", "--eos-token-id", NEVER) == (0, shown, "")


def test_turns_of_dialogpt(chat: Chat, model: GPT2) -> None:
    encode, decode = model.tokenizer.encode, model.tokenizer.decode
    prompt = [*encode("Hello <"), END]
    first = drawn(model, prompt)
    prompt += [*first, END, *model.tokenizer.encode_bytes(b"<|endoftext|>"), END]
    second = drawn(model, prompt)
    code, out, err = chat("Hello <\n\n<|endoftext|>\n", "--turns", "eos", "--eos-token-id", NEVER)
    assert (code, out, err) == (0, f"{decode(first)}\n{decode(second)}\n", "")


@pytest.mark.parametrize("name", ["my-DialoGPT-small", "model"])
def test_a_dialogpt_needs_no_word_on_turns(chat: Chat, embedded_dir: Path, tmp_path: Path, name: str) -> None:
    source = checkpoint(embedded_dir, tmp_path / name, None if "GPT" in name else EOS_TEMPLATE)
    shown = chat("Hello\nAnd you?\n", "--turns", "eos")
    assert chat("Hello\nAnd you?\n", "--model", source) == shown
    assert chat("Hello\nAnd you?\n", "--model", source, "--turns", "plain") != shown


def test_a_chat_template(chat: Chat, embedded_dir: Path, tmp_path: Path, model: GPT2) -> None:
    pytest.importorskip("jinja2")
    template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    source = checkpoint(embedded_dir, tmp_path / "model", template)
    answer = model.tokenizer.decode(drawn(model, model.tokenizer.encode("user: Hello\nassistant:")))
    prompt = f"user: Hello\nassistant: {answer}\nuser: Why?\nassistant:"
    second = model.tokenizer.decode(drawn(model, model.tokenizer.encode(prompt)))
    found = chat("Hello\nWhy?\n", "--model", source, "--eos-token-id", NEVER)
    assert found == (0, f"{answer}\n{second}\n", "")


def test_what_has_no_template_is_said(chat: Chat) -> None:
    code, out, err = chat("Hello\n", "--turns", "template")
    assert (code, out) == (1, "")
    assert "the model has no chat template; give --turns eos or --turns plain" in err


def test_commands(chat: Chat) -> None:
    typed = (
        "Once\n/reset\nOnce\n/seed 8\n/clear\nOnce\n/set max-new-tokens 3\n/reset\nOnce\n/bye\nnever read\n"
    )
    code, out, err = chat(typed, "--no-generation-config")
    seven = chat("Once\n", "--no-generation-config")[1]
    eight = chat("Once\n", "--no-generation-config", "--seed", "8")[1]
    short = chat("Once\n", "--no-generation-config", "--seed", "8", "--max-new-tokens", "3")[1]
    assert (code, out) == (0, seven + seven + eight + short)
    assert seven != eight
    assert err.count("A new conversation.") == 3
    assert "max_new_tokens = 3" in err


def test_options_are_set_and_left_to_the_model_again(chat: Chat) -> None:
    typed = (
        "/set stop_strings 'a b' c\n/set logit_bias 5=-inf 6=2\n/seed\n/set do_sample false\n"
        "/show\n/set stop-strings\n/show\n/help\n"
    )
    code, out, err = chat(typed)
    assert (code, out) == (0, "")
    for part in ("stop_strings: ('a b', 'c')", "do_sample: False", "logit_bias: {5: -inf, 6: 2.0}"):
        assert err.count(part) == (1 if "stop" in part else 2)
    assert "max_new_tokens: 8" in err
    assert "/seed N" in err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/sed 7", "no command /sed; /help lists them"),
        ("/seed x", "seed: 'x' is not a valid integer"),
        ("/set top_p 1.5", "--top-p must be in (0, 1], got 1.5"),
        ("/set tempertaure 1", "no option 'tempertaure'; did you mean 'temperature'?"),
        ("/set num_beams 3", "no option 'num_beams'"),
        ("/set stop_strings 'a", "No closing quotation"),
        ("/set suppress_tokens 5000\nOnce", "must be from 0 to 4095, got 5000"),
        ("/set max_new_tokens 600\nOnce", "(600) must be at most the model's n_positions (512)"),
        ("word " * 600, "that is 602 tokens; with --max-new-tokens 8, the model has room for 505"),
        (b"Once \xff\n", "line 1 of standard input is not UTF-8 text"),
    ],
)
def test_a_pipe_ends_at_a_mistake(chat: Chat, line: str | bytes, message: str) -> None:
    code, _, err = chat(line)
    assert code == 1
    assert message in err


def test_lines_between_quotes_are_one(chat: Chat) -> None:
    assert chat('"""Once\nupon"""\n') == chat('\ufeff"""Once\r\nupon"""')
    assert chat('"""Once\nupon') == chat('"""Once\nupon"""\n')
    assert chat('"""Once\nupon"""\n') != chat("Once upon\n")


def session(model: GPT2, **options: object) -> tuple[ChatSession, list[str]]:
    notices: list[str] = []
    values = GenerationOptions(seed=7, eos_token_id=[], **options)  # type: ignore[arg-type]
    return ChatSession(model, EosTurns(model.tokenizer, END), values, notices.append), notices


def test_the_oldest_turns_go_first_and_it_is_said_once(model: GPT2) -> None:
    talk, notices = session(model, max_new_tokens=200)
    encode = model.tokenizer.encode
    answers: list[list[int]] = []
    for number in range(4):
        before = [*encode(f"Turn {number - 1}"), END, *answers[-1], END] if number > 0 else []
        expected = drawn(model, [*before, *encode(f"Turn {number}"), END], most=200)
        assert "".join(talk.answer(f"Turn {number}", CancelToken())) == model.tokenizer.decode(expected)
        assert [turn.text for turn in talk.turns[-2:]] == [f"Turn {number}", model.tokenizer.decode(expected)]
        assert len(talk.turns) == (2 if number == 0 else 4)
        assert len(notices) == (1 if number > 1 else 0)
        answers.append(expected)
    assert "512 tokens" in notices[0]


def test_what_finds_no_room_was_not_said(model: GPT2) -> None:
    talk, _ = session(model, max_new_tokens=8)
    first = "".join(talk.answer("Hello", CancelToken()))
    with pytest.raises(ValueError, match="the model has room for 505"):
        list(talk.answer("word " * 600, CancelToken()))
    assert [turn.text for turn in talk.turns] == ["Hello", first]


def test_a_text_that_has_ended_is_followed_by_another(model: GPT2) -> None:
    (first,) = drawn(model, model.tokenizer.encode("Once"), most=1)
    options = GenerationOptions(seed=7, eos_token_id=first, max_new_tokens=8)
    talk = ChatSession(model, PlainText(model.tokenizer), options, pytest.fail)
    list(talk.answer("Once", CancelToken()))
    assert len(talk.turns) == 2
    list(talk.answer("Once", CancelToken()))
    assert [turn.ids for turn in talk.turns] == [None, [first]]


def test_the_model_s_own_defaults_count(model: GPT2, embedded_dir: Path, tmp_path: Path) -> None:
    source = Path(checkpoint(embedded_dir, tmp_path / "model"))
    values = {"do_sample": True, "top_k": 1, "max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2}
    (source / "generation_config.json").write_text(json.dumps(values))
    own = GPT2.from_pretrained(source)
    talk = ChatSession(own, PlainText(own.tokenizer), GenerationOptions(eos_token_id=[]), pytest.fail)
    expected = model.generate("Once", max_new_tokens=9, eos_token_id=[], do_sample=False)
    assert "".join(talk.answer("Once", CancelToken())) == expected.text
    talk.change("do_sample", False)
    talk.reset()
    assert "".join(talk.answer("Once", CancelToken())) == expected.text
    assert talk.last is not None
    assert talk.last.seed is None


def test_an_answer_that_is_stopped_counts_as_said(model: GPT2) -> None:
    talk, _ = session(model, max_new_tokens=100)
    cancel = CancelToken()
    pieces = talk.answer("Hello", cancel)
    first = next(pieces)
    cancel.cancel()
    said = first + "".join(pieces)
    assert talk.last is not None
    assert talk.last.tokens < 100
    prompt = [*model.tokenizer.encode("Hello"), END]
    whole = drawn(model, prompt, most=100)[: talk.last.tokens]
    assert said == model.tokenizer.decode(whole)
    expected = drawn(model, [*prompt, *whole, END, *model.tokenizer.encode("Go on"), END], most=100)
    assert "".join(talk.answer("Go on", CancelToken())) == model.tokenizer.decode(expected)


terminal_only = pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals of POSIX")
COMMAND = [sys.executable, "-m", "gpt2fast", "chat", "--no-generation-config"]
ENDLESS = ["--max-new-tokens", "1000000", "--overflow", "slide", "--eos-token-id", NEVER]
PROMPT = ">>> "


@terminal_only
def test_a_conversation_at_a_terminal(chat: Chat) -> None:
    from support.terminal import CTRL_D, UP, Terminal

    first, second = chat("Once\n")[1], chat("Once\n/reset\nThe wolf\n")[1]
    with Terminal([*COMMAND, *ARGUMENTS]) as terminal:
        assert "Ctrl-D leaves, /help shows more" in terminal.wait_for(PROMPT)
        terminal.type("Once\n")
        assert terminal.wait_for(PROMPT) == f"Once\n{first}{PROMPT}"
        terminal.type("/nothing\n")
        assert "no command /nothing" in terminal.wait_for(PROMPT)
        terminal.type("/reset\n")
        terminal.wait_for(PROMPT)
        terminal.type("The wolf\n")
        assert terminal.wait_for(PROMPT).endswith(second.removeprefix(first) + PROMPT)
        terminal.type("/reset\n")
        terminal.wait_for(PROMPT)
        terminal.type(UP + UP)  # the line before the newest
        terminal.wait_for("The wolf")
        terminal.type("\n")
        terminal.wait_for(second.removeprefix(first) + PROMPT)
        terminal.type(CTRL_D)
        assert terminal.end() == 0


@terminal_only
def test_ctrl_c_stops_a_text_and_not_the_program(chat: Chat) -> None:
    from support.terminal import CTRL_C, CTRL_D, UP, Terminal

    with Terminal([*COMMAND, "--seed", "7", *ENDLESS]) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Once\n")
        terminal.wait_for("Once\n")
        terminal.wait_for(" ")  # the text has begun
        terminal.type(CTRL_C)
        terminal.wait_for(PROMPT)
        terminal.type(UP)
        terminal.wait_for("Once")
        assert "Ctrl-D or /bye leaves." in terminal.interrupt(PROMPT)
        terminal.type("/set max_new_tokens 8\n")
        terminal.wait_for(PROMPT)
        terminal.type("/reset\n")
        terminal.wait_for(PROMPT)
        terminal.type("Once\n")
        assert terminal.wait_for(PROMPT) == f"Once\n{chat('Once', '--eos-token-id', NEVER)[1]}{PROMPT}"
        terminal.type(CTRL_D)
        assert terminal.end() == 0


@terminal_only
def test_bye_leaves_a_terminal() -> None:
    from support.terminal import Terminal

    with Terminal(COMMAND) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("/bye\n")
        assert terminal.end() == 0
