"""Notebooks: answers that appear as they are made, a chat, and the magics ``%llcuda`` and ``%%llm``.

>>> %load_ext llcuda
>>> %llcuda load gemma-3-1b-Q4_K_M

Only IPython is needed, except for :class:`ChatWidget`, which needs ipywidgets. Outside a notebook the functions print.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .engine import InferenceEngine

__all__ = [
    "ChatWidget",
    "check_dependencies",
    "compare_temperatures",
    "display_metrics",
    "is_jupyter_available",
    "load_ipython_extension",
    "progress_generate",
    "stream_generate",
    "visualize_tokens",
]

DRAW_SECONDS = 0.1
"""The shortest time between two drawings of an answer: each is a message to the browser with the whole text."""


def is_jupyter_available() -> bool:
    """Whether IPython runs this code, so that something can be displayed."""
    from ._internal.setup import in_ipython

    return in_ipython()


def check_dependencies(require_widgets: bool = False) -> bool:
    """Whether what notebooks need is there; what is missing is printed.

    Args:
        require_widgets: Whether ipywidgets is needed, too.
    """
    missing = [name for name in ("IPython", *(["ipywidgets"] if require_widgets else [])) if not _has(name)]
    for name in missing:
        print(f'{name} is not installed: pip install "llcuda[jupyter]"')
    return not missing


def _has(name: str) -> bool:
    from importlib.util import find_spec

    return name in sys.modules or find_spec(name) is not None


# Showing text


_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[^\n]*\n(.*?)(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)(`+)(?!`)([^\n]*?[^`\n])\1(?!`)")
_TAG = re.compile(r"<(?=[A-Za-z/!?])")


def safe_markdown(text: str) -> str:
    """A model's Markdown in which nothing is HTML of the model's: notebooks run the scripts of an answer.

    Every ``<`` that could begin a tag is escaped. Code with one in it is given as HTML with its text escaped, since
    Markdown would show the escape itself there.
    """
    made, end = [], 0
    for fence in _FENCE.finditer(text):
        made.append(_safe_spans(text[end : fence.start()]))
        whole = fence.group(0)
        if _TAG.search(whole):
            whole = f"<pre><code>{escape(fence.group(2)).replace(chr(10) * 2, chr(10) + '&#8203;' + chr(10))}</code></pre>\n"
        made.append(whole)
        end = fence.end()
    made.append(_safe_spans(text[end:]))
    return "".join(made)


def _safe_spans(text: str) -> str:
    made, end = [], 0
    for span in _SPAN.finditer(text):
        made.append(_TAG.sub("&lt;", text[end : span.start()]))
        whole = span.group(0)
        if _TAG.search(whole):
            code = "".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in span.group(2).strip())
            whole = f"<code>{code}</code>"
        made.append(whole)
        end = span.end()
    made.append(_TAG.sub("&lt;", text[end:]))
    return "".join(made)


class _Page:
    """One output of the cell that is replaced while an answer grows; outside a notebook, standard output."""

    def __init__(self, markdown: bool = True) -> None:
        self._markdown = markdown
        self._notebook = is_jupyter_available()
        self._handle: Any = None
        self._when = 0.0
        self._printed = 0

    def show(self, text: str, note: str = "", *, last: bool = False) -> None:
        """Show the text so far. Not every call draws, but the last does."""
        if not self._notebook:
            print(text[self._printed :], end="", flush=True)
            self._printed = len(text)
            if last:
                print(f"\n{note}" if note else "")
            return
        now = time.monotonic()
        if not last and self._handle is not None and now - self._when < DRAW_SECONDS:
            return
        self._when = now
        plain = f"{text}\n\n{note}" if note else text
        data = {"text/plain": plain}
        if self._markdown:
            data["text/markdown"] = safe_markdown(text) + (f"\n\n*{escape(note)}*" if note else "")
        else:
            small = f'<div style="opacity:.7;font-size:.85em">{escape(note)}</div>' if note else ""
            data["text/html"] = f'<div style="white-space:pre-wrap">{escape(text)}</div>{small}'
        if self._handle is None:
            from IPython.display import display

            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)


def _shown(pieces: Iterator[str], page: _Page, note: Callable[[float, int], str]) -> str:
    """Show pieces as they come; an interrupt leaves what is there on the page, and ends the generation."""
    began, texts = time.perf_counter(), []
    try:
        for piece in pieces:
            texts.append(piece)
            page.show("".join(texts))
    except BaseException as err:
        why = "interrupted" if isinstance(err, KeyboardInterrupt) else "broken off"
        page.show("".join(texts), f"{why} after {len(texts)} pieces", last=True)
        raise
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    text = "".join(texts)
    page.show(text, note(time.perf_counter() - began, len(texts)), last=True)
    return text


def _timing(seconds: float, count: int) -> str:
    return f"{count} tokens in {seconds:.1f} s, {count / seconds:.1f} tokens/s" if seconds else ""


def _html(html: str, plain: str) -> None:
    """Display HTML; outside a notebook, print its text."""
    if not is_jupyter_available():
        print(plain)
        return
    from IPython.display import display

    display({"text/plain": plain, "text/html": html}, raw=True)  # type: ignore[no-untyped-call]


# Functions


def stream_generate(
    engine: InferenceEngine,
    prompt: str,
    max_tokens: int = 256,
    temperature: float = 0.7,
    show_timing: bool = True,
    markdown: bool = True,
    **kwargs: Any,
) -> str:
    """Complete a prompt, and show the answer while it is made. An interrupt leaves what came on the page.

    Args:
        engine: The engine.
        prompt: The text to go on from, without the model's chat template.
        max_tokens: The most tokens to generate.
        temperature: Randomness; 0 takes the likeliest token each time.
        show_timing: Show tokens and seconds below.
        markdown: Show the answer as Markdown. Its HTML is shown as text.
        **kwargs: Further parameters of :meth:`InferenceEngine.infer`.

    Returns:
        The answer.

    Raises:
        RequestError: The server refused or broke off.
        ServerNotRunningError: There is no server.
    """
    pieces = engine.stream(prompt, max_tokens=max_tokens, temperature=temperature, **kwargs)
    return _shown(pieces, _Page(markdown), _timing if show_timing else lambda *_: "")


def progress_generate(engine: InferenceEngine, prompts: Sequence[str], max_tokens: int = 128, **kwargs: Any) -> list[str]:
    """Complete several prompts one after the other, and show how far it is.

    Args:
        engine: The engine.
        prompts: The prompts.
        max_tokens: The most tokens for each.
        **kwargs: Further parameters of :meth:`InferenceEngine.infer`.

    Returns:
        The answers; ``""`` for one that failed.
    """
    answers: list[str] = []
    for answer in _progress(prompts, lambda prompt: engine.infer(prompt, max_tokens=max_tokens, **kwargs)):
        answers.append(answer.text if answer.success else "")
    return answers


def _progress(items: Sequence[str], work: Callable[[str], Any]) -> Iterable[Any]:
    items, handle = list(items), None
    for done in range(len(items) + 1):
        if is_jupyter_available():
            from IPython.display import display

            text = f"{done} of {len(items)}"
            bar = f'<progress style="width:20em" value="{done}" max="{max(1, len(items))}"></progress> {text}'
            data = {"text/plain": text, "text/html": bar}
            if handle is None:
                handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
            else:
                handle.update(data, raw=True)
        elif done:
            print(f"{done} of {len(items)}", file=sys.stderr)
        if done < len(items):
            yield work(items[done])


def display_metrics(engine: InferenceEngine, as_dataframe: bool = True) -> None:
    """Show what the answers of an engine took.

    Args:
        engine: The engine.
        as_dataframe: As a table of pandas, if that is installed.
    """
    metrics = engine.get_metrics()
    rows = [
        (part.title(), name.replace("_", " ").title(), f"{value:.2f}" if isinstance(value, float) else str(value))
        for part, values in metrics.items()
        for name, value in values.items()
    ]
    if as_dataframe and is_jupyter_available():
        with contextlib.suppress(ImportError):
            import pandas
            from IPython.display import display

            display(pandas.DataFrame(rows, columns=["Category", "Metric", "Value"]))  # type: ignore[no-untyped-call]
            return
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    _html(f"<table>{cells}</table>", "\n".join(f"{part:<12}{name:<18}{value}" for part, name, value in rows))


def compare_temperatures(
    engine: InferenceEngine,
    prompt: str,
    temperatures: Sequence[float] = (0.3, 0.7, 1.0, 1.5),
    max_tokens: int = 100,
) -> dict[float, str]:
    """Complete a prompt at several temperatures, and show the answers below each other.

    Args:
        engine: The engine.
        prompt: The text to go on from.
        temperatures: The temperatures.
        max_tokens: The most tokens of each answer.

    Returns:
        The answer at each temperature; ``"Error: …"`` for one that failed.
    """
    answers: dict[float, str] = {}
    _html(f"<b>Prompt:</b> {escape(prompt)}", f"Prompt: {prompt}")
    for temperature in temperatures:
        result = engine.infer(prompt, max_tokens=max_tokens, temperature=temperature)
        answers[temperature] = result.text if result.success else f"Error: {result.error_message}"
        box = f'<div style="white-space:pre-wrap;margin:.5em 0">{escape(answers[temperature])}</div>'
        _html(f"<b>Temperature {temperature}</b>{box}", f"Temperature {temperature}\n{answers[temperature]}\n")
    return answers


def visualize_tokens(text: str, engine: InferenceEngine | None = None) -> None:
    """Show where a model's tokens begin and end in a text.

    Args:
        text: The text.
        engine: The engine whose model is asked; None shows words.

    Raises:
        ServerNotRunningError: There is no server.
    """
    if engine is None:
        tokens = re.findall(r"\S+|\s+", text)
    else:
        tokens = [engine.detokenize([token]) for token in engine.tokenize(text)]
    box = (
        "display:inline-block;white-space:pre;font-family:monospace;"
        "border:1px solid #8888;border-radius:3px;padding:0 3px;margin:1px"
    )
    shown = "".join(f'<span style="{box}">{escape(token)}</span>' for token in tokens)
    count = f"{len(tokens)} {'words and blanks' if engine is None else 'tokens'}"
    _html(f"<div>{shown}</div><div>{count}</div>", f"{' | '.join(tokens)}\n{count}")


# The chat


class ChatWidget:
    """A chat in a notebook. What is said is shown as text: HTML in it stays text.

    Args:
        engine: The engine.
        system_prompt: What the model is told first.
        max_tokens: The most tokens of an answer, to begin with.
        temperature: Randomness, to begin with.

    Attributes:
        output, input_text, send_button, clear_button, max_tokens_slider, temperature_slider, widget: The widgets.
        conversation_history (list of dict): What was said: ``role`` and ``content``.

    Raises:
        ImportError: ipywidgets is not installed.
    """

    def __init__(
        self,
        engine: InferenceEngine,
        system_prompt: str | None = None,
        max_tokens: int = 256,
        temperature: float = 0.7,
    ) -> None:
        try:
            import ipywidgets as widgets
        except ImportError:
            raise ImportError(
                'ChatWidget needs ipywidgets: pip install "llcuda[jupyter]"; %%llm and stream_generate work without'
            ) from None
        self.engine = engine
        self.system_prompt = system_prompt
        self.conversation_history: list[dict[str, str]] = []
        self._page = widgets.HTML()
        self.output = widgets.Output()
        self.input_text = widgets.Textarea(placeholder="Type a message", layout=widgets.Layout(width="100%", height="80px"))
        self.send_button = widgets.Button(description="Send", button_style="primary", icon="paper-plane")
        self.clear_button = widgets.Button(description="Clear", button_style="warning", icon="trash")
        wide = {"description_width": "initial"}
        self.max_tokens_slider = widgets.IntSlider(
            value=max_tokens, min=1, max=max(4096, max_tokens), description="Max tokens:", style=wide
        )
        self.temperature_slider = widgets.FloatSlider(
            value=temperature, min=0.0, max=2.0, step=0.1, description="Temperature:", style=wide
        )
        self.send_button.on_click(self._on_send)
        self.clear_button.on_click(self._on_clear)
        self.widget = widgets.VBox(
            [
                self._page,
                self.output,
                self.input_text,
                widgets.HBox([self.send_button, self.clear_button]),
                widgets.VBox([self.max_tokens_slider, self.temperature_slider]),
            ]
        )

    def display(self) -> None:
        """Show the chat."""
        from IPython.display import display

        display(self.widget)  # type: ignore[no-untyped-call]

    def _on_send(self, _: object) -> None:
        said = self.input_text.value.strip()
        if not said:
            return
        system = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        asked = {"role": "user", "content": said}
        self.send_button.disabled = True
        texts: list[str] = []
        when = 0.0
        try:
            pieces = self.engine.chat(
                [*system, *self.conversation_history, asked],
                max_tokens=self.max_tokens_slider.value,
                temperature=self.temperature_slider.value,
                stream=True,
            )
            with contextlib.closing(pieces):
                self._draw(asked)
                for piece in pieces:
                    texts.append(piece)
                    if time.monotonic() - when >= DRAW_SECONDS:
                        when = time.monotonic()
                        self._draw(asked, {"role": "assistant", "content": "".join(texts)})
        except (KeyboardInterrupt, Exception) as err:  # a callback's error would be seen nowhere; the message is kept
            self._draw(asked, {"role": "error", "content": str(err) or "interrupted"})
            return
        finally:
            self.send_button.disabled = False
        self.input_text.value = ""
        self.conversation_history += [asked, {"role": "assistant", "content": "".join(texts)}]
        self._draw()

    def _on_clear(self, _: object) -> None:
        self.conversation_history = []
        self._draw()

    def _draw(self, *more: dict[str, str]) -> None:
        self._page.value = "".join(_bubble(m["role"], m["content"]) for m in [*self.conversation_history, *more])


_BUBBLES = {"user": ("You", "#2196f322"), "assistant": ("Assistant", "#9e9e9e22"), "error": ("Error", "#f4433633")}


def _bubble(role: str, text: str) -> str:
    name, color = _BUBBLES.get(role, (role, "#9e9e9e22"))
    style = f"background:{color};padding:8px 12px;margin:4px 0;border-radius:8px;white-space:pre-wrap"
    return f'<div style="{style}"><b>{escape(name)}:</b> {escape(text)}</div>'


# Magics


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext llcuda``: the magics ``%llcuda`` and ``%%llm``."""
    magics = _Magics(shell)
    shell.register_magic_function(magics.llcuda, "line", "llcuda")
    shell.register_magic_function(magics.llm, "cell", "llm")


_USAGE = "%llcuda status | setup | load NAME [-ngl N] [-c N] [--cpu] | unload | logs [LINES]"
_CELL_USAGE = "%%llm [-n TOKENS] [-t TEMPERATURE] [--raw] [-o VARIABLE]"


class _Magics:
    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._engine: InferenceEngine | None = None

    def llcuda(self, line: str) -> Any:
        """``%llcuda status | setup | load NAME [-ngl N] [-c N] [--cpu] | unload | logs [LINES]``."""
        import shlex

        from .errors import UsageError

        command, *rest = shlex.split(line) or ["status"]
        if command in ("status", "setup") and not rest:
            from ._internal import setup

            return setup.status() if command == "status" else setup.setup()
        if command == "load":
            options, names = _options(rest, {"-ngl": int, "-c": int, "--cpu": None}, _USAGE)
            if len(names) != 1:
                raise UsageError("%llcuda load takes one model", hints=[_USAGE])
            return self._load(names[0], options)
        if command == "unload" and not rest:
            self._current().unload_model()
            return None
        if command == "logs" and len(rest) <= 1 and all(part.isdigit() for part in rest):
            print(self._current().logs(int(rest[0]) if rest else 50))
            return None
        raise UsageError(f"%llcuda does not know {line.strip()!r}", hints=[_USAGE])

    def _load(self, name: str, options: dict[str, Any]) -> None:
        from .engine import InferenceEngine

        engine = self._found() or InferenceEngine()
        engine.load_model(
            name, gpu_layers=options.get("-ngl"), ctx_size=options.get("-c"), allow_cpu=True if "--cpu" in options else None
        )
        self._engine = engine
        self._shell.user_ns.setdefault("engine", engine)

    def _found(self) -> InferenceEngine | None:
        """The notebook's engine: its variable ``engine``, else what ``%llcuda load`` made, else the only other one."""
        from .engine import InferenceEngine

        names = self._shell.user_ns
        if isinstance(names.get("engine"), InferenceEngine):
            return names["engine"]  # type: ignore[no-any-return]
        if self._engine is not None:
            return self._engine
        others = {id(v): v for k, v in names.items() if not k.startswith("_") and isinstance(v, InferenceEngine)}
        return next(iter(others.values())) if len(others) == 1 else None

    def _current(self) -> InferenceEngine:
        from .errors import ServerNotRunningError

        engine = self._found()
        if engine is None:
            raise ServerNotRunningError("no model is loaded in this notebook", hints=["%llcuda load NAME loads one"])
        return engine

    def llm(self, line: str, cell: str) -> None:
        """``%%llm [-n TOKENS] [-t TEMPERATURE] [--raw] [-o VARIABLE]``: the model's answer to the cell."""
        import shlex

        from .errors import UsageError

        kinds = {"-n": int, "-t": float, "--raw": None, "-o": str}
        options, rest = _options(shlex.split(line), kinds, _CELL_USAGE)
        if rest:
            raise UsageError(f"%%llm does not know {rest[0]!r}", hints=[_CELL_USAGE])
        name = options.get("-o")
        if name is not None and not str(name).isidentifier():
            raise UsageError(f"{name!r} cannot be a variable", hints=[_CELL_USAGE])
        engine = self._current()
        tokens, temperature = options.get("-n", 256), options.get("-t", 0.7)
        if "--raw" in options:
            pieces = engine.stream(cell.removesuffix("\n"), max_tokens=tokens, temperature=temperature)
        else:
            pieces = engine.chat(cell.strip(), max_tokens=tokens, temperature=temperature, stream=True)
        text = _shown(pieces, _Page(), lambda *_: "")
        if name is not None:
            self._shell.user_ns[name] = text


def _options(words: Sequence[str], kinds: dict[str, Any], usage: str) -> tuple[dict[str, Any], list[str]]:
    """A magic's options and its other words. A kind of None has no value."""
    from .errors import UsageError

    options: dict[str, Any] = {}
    rest: list[str] = []
    left = iter(words)
    for word in left:
        if word not in kinds:
            rest.append(word)
        elif kinds[word] is None:
            options[word] = True
        else:
            value = next(left, None)
            try:
                options[word] = kinds[word](value)
            except (TypeError, ValueError):
                raise UsageError(f"{word} cannot be {value!r}", hints=[usage]) from None
    return options, rest
