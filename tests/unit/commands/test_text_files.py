"""What a file of texts holds, and which tokens are judged of it."""

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_runs import save_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import okr
from okr.commands.text_files import Written, check_separator, joint, read_texts, tokenise, with_given
from okr.engines import prepare
from okr.errors import InvalidConfig, InvalidText
from okr.experiment.prompts import prompts_in
from okr.loaders import Loaded

LINES = st.text(st.characters(exclude_characters="\r\0", exclude_categories=["Cs"]), max_size=20)


def written(path: Path, content: bytes, separator: str | None = None) -> list[str]:
    path.write_bytes(content)
    return [text.text for text in read_texts(path, separator)]


@given(text=LINES.filter(str.strip))
def test_a_file_is_one_text_as_it_is_written(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever an editor adds: a last line break, a byte order mark, the line ends of Windows."""
    path, text = tmp_path_factory.mktemp("text") / "text.txt", text.lstrip("\ufeff").removesuffix("\n") or "x"
    if not text.strip():
        return
    for content in (text, text + "\n", "\ufeff" + text, text.replace("\n", "\r\n") + "\r\n"):
        assert written(path, content.encode()) == [text]


@given(
    texts=st.lists(LINES.filter(lambda text: text.strip() and "\n" not in text), min_size=1, max_size=4),
    separator=st.sampled_from(["---", "", "***"]),
)
def test_a_separator_takes_texts_apart_again(
    texts: list[str], separator: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = [text.lstrip("\ufeff") for text in texts if text.rstrip() != separator and text.lstrip("\ufeff").strip()]
    path = tmp_path_factory.mktemp("texts") / "texts.txt"
    joined = f"\n{separator}\n".join(texts)
    for content in (joined, f"{joined}\n{separator}\n", joined.replace("\n", "\r\n")):
        if texts:
            assert written(path, content.encode(), separator) == texts


def test_lines_of_json_have_prompts_and_sources(tmp_path: Path) -> None:
    path = tmp_path / "texts.jsonl"
    records = [
        {"text": "one\n\u2028two"},
        {"text": "three", "prompt": "given", "other": 1},
        {"text": "4", "source": "s"},
    ]
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n\n", encoding="utf-8")
    assert read_texts(path) == [
        Written(f"{path}:1", "one\n\u2028two"),
        Written(f"{path}:2", "three", prompt="given"),
        Written(f"{path}:3", "4", source="s"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "separator", "said"),
    [
        ("a.txt", b"", None, "holds no text"),
        ("a.txt", b" \n\t\r\n", None, "holds no text"),
        ("a.txt", b"\xef\xbb\xbf\n", None, "holds no text"),
        ("a.txt", b"---\n\n---\n", "---", "holds no text"),
        ("a.txt", "Gr\xfc\xdfe".encode("latin-1"), None, "is not UTF-8 text"),
        ("a.txt", "hello".encode("utf-16"), None, "is not UTF-8 text"),
        ("a.txt", "hello".encode("utf-16-le"), None, "is not UTF-8 text"),
        ("a.jsonl", b"", None, "holds no text"),
        ("a.jsonl", b'{"text": ""}\n{"text": " "}', None, "holds no text"),
        ("a.jsonl", b'{"text": "one"}\nnonsense', None, 'line 2: expected {"text": "..."}'),
        ("a.jsonl", b'{"text": 1}', None, "line 1: expected"),
        ("a.jsonl", b'["text"]', None, "line 1: expected"),
        ("a.jsonl", b'{"text": "one", "prompt": null}', None, "line 1: expected"),
        ("a.jsonl", b"[" * 200_000, None, "line 1: expected"),
        ("a.jsonl", b'{"text": "cut \\ud83d"}', None, r'line 1: "text" holds \ud83d, half of a character'),
        ("a.JSONL", b"nonsense", None, "line 1: expected"),
        ("a.ndjson", b"nonsense", None, "line 1: expected"),
        ("a.json", b'[\n {"text": "one"}\n]', None, "line 1: expected"),
    ],
)
def test_what_holds_no_text_is_named(
    name: str, content: bytes, separator: str | None, said: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidText) as caught:
        written(tmp_path / name, content, separator)
    assert str(tmp_path / name) in str(caught.value)
    assert said in str(caught.value)


def test_standard_input_means_the_same_in_every_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for locale in ("utf-8", "latin-1", "ascii"):
        content = io.BytesIO("\ufeffGr\u00fc\u00dfe\r\n".encode())
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(content, encoding=locale, errors="surrogateescape"))
        assert read_texts(Path("-")) == [Written("-", "Gr\u00fc\u00dfe")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Gr\xfc\xdfe"), errors="surrogateescape"))
    with pytest.raises(InvalidText, match="- is not UTF-8 text"):
        read_texts(Path("-"))
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InvalidText, match="standard input is closed"):
        read_texts(Path("-"))


def test_a_separator_that_no_line_can_be_is_refused() -> None:
    """It parted nothing: all texts of a file were judged as one."""
    for separator in ("--- ", "\n", "\n\n", "a\nb", " ", "---\r"):
        with pytest.raises(InvalidConfig, match="--separator must be one line"):
            check_separator(separator)
    for separator in (None, "", "---", "# text"):
        check_separator(separator)


def test_a_blank_line_of_json_costs_only_itself(tmp_path: Path, byte_level: Loaded) -> None:
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "the whale"}\n{"text": ""}\n{"text": "the sea"}\n')
    one, blank, two = read_texts(path)
    assert [text.name for text in (one, blank, two)] == [f"{path}:{number}" for number in (1, 2, 3)]
    assert all(tokenise(byte_level, prepare(byte_level.model), text).pieces for text in (one, two))
    with pytest.raises(InvalidText, match="blank"):
        tokenise(byte_level, prepare(byte_level.model), blank)


def test_prompts_are_read_like_texts(tmp_path: Path) -> None:
    """The mark that Windows programs put in front was part of the first prompt, and null the prompt "None"."""
    plain, lines = tmp_path / "prompts.txt", tmp_path / "prompts.JSONL"
    plain.write_bytes(b"\xef\xbb\xbfone\r\ntwo \xe2\x80\xa8 still two\r\n")
    assert prompts_in(plain) == ["one", "two \u2028 still two"]
    lines.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two \xe2\x80\xa8"}\n')
    assert prompts_in(lines) == ["one", "two"]
    lines.write_text('{"text": null}')
    with pytest.raises(InvalidConfig, match="line 1: expected"):
        prompts_in(lines)


def test_a_prompt_for_each_text() -> None:
    texts = [Written("a", "one"), Written("b", "two")]
    assert with_given(texts, "prompt", []) == texts
    assert [text.prompt for text in with_given(texts, "prompt", ["p", "q"])] == ["p", "q"]
    with pytest.raises(InvalidText, match="2 texts, 1 prompts"):
        with_given(texts, "prompt", ["p"])
    with pytest.raises(InvalidText, match="b brings its own prompt: leave --prompt out"):
        with_given([texts[0], Written("b", "two", prompt="given")], "prompt", ["p", "q"])


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return Loaded(okr.load("tiny").model, PreTrainedTokenizerFast.from_pretrained(folder), "tiny")


@pytest.fixture(scope="module")
def word_marking() -> Loaded:
    """A tokenizer that marks the start of a text like that of a word, as those of the Llama and Mixtral models do."""
    words = ["<bos>", "<unk>", *"▁.,abcdehilnorstw", "▁the", "▁he", "▁sailed", "▁on"]
    tokenizer = Tokenizer(models.Unigram([(word, -float(i)) for i, word in enumerate(words)], unk_id=1))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return Loaded(
        okr.load("tiny").model,
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>"),
        "tiny",
    )


@pytest.mark.parametrize("kind", ["byte_level", "word_marking"])
def test_a_text_behind_its_prompt_is_read_in_the_tokens_that_were_sampled(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """From tokens to text and back: those after the prompt, decoded behind it, are judged, and nothing else."""
    loaded = request.getfixturevalue(kind)
    tokenizer = loaded.tokenizer
    prompt, text = "the whale", " sailed on the sea"
    front = tokenizer(prompt)["input_ids"]
    sampled = tokenizer(prompt + text)["input_ids"][len(front) :]
    assert tokenizer.decode(front + sampled, skip_special_tokens=True) == prompt + text
    tokens = tokenise(loaded, prepare(loaded.model), Written("a", text, prompt=prompt))
    assert (tokens.pieces, tokens.given) == ([front + sampled], [len(front)])


def test_a_prompt_that_ends_within_a_word_keeps_its_tokens(byte_level: Loaded) -> None:
    """Read in one, the last token of the prompt would be another one than the model was given."""
    tokenizer = byte_level.tokenizer
    prompt, text = "the whale sank in t", "he sea"
    front, behind = tokenizer(prompt)["input_ids"], tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer(prompt + text)["input_ids"][: len(front)] != front, "else the case is not what it should be"
    tokens = tokenise(byte_level, prepare(byte_level.model), Written("a", text, prompt=prompt))
    assert (tokens.pieces, tokens.given) == ([front + behind], [len(front)])


def test_a_rendered_chat_template_starts_once(byte_level: Loaded) -> None:
    """It brings the token that starts a text, and the tokenizer would put another in front."""
    bos, plain = byte_level.tokenizer.bos_token_id, "the answer is given here"
    for written_text in (
        Written("a", plain, prompt="<bos>user: hello"),
        Written("a", f"<bos>{plain}"),
        Written("a", plain),
    ):
        (ids,) = tokenise(byte_level, prepare(byte_level.model), written_text).pieces
        assert (ids[0], ids.count(bos)) == (bos, 1)


def test_long_texts_are_pieces_of_one_test(byte_level: Loaded) -> None:
    room = byte_level.model.config.max_position_embeddings
    tokens = tokenise(byte_level, prepare(byte_level.model), Written("a", "the whale rose and sank again " * 300))
    assert len(tokens.pieces) > 1
    assert all(piece[0] == byte_level.tokenizer.bos_token_id and len(piece) <= room for piece in tokens.pieces)
    both = joint([tokens, tokens])
    assert len(both["token_ids"]) == len(both["prompt_length"]) == 2 * len(tokens.pieces)
    assert both["source_ids"] is None
