"""Token ids, one after another → text that no character is cut in, and that ends before a stop string."""

import codecs

_PROBE = "Tell me é 😀 日本 of 12 a\n  b"


class Vocabulary:
    """What each token id spells, and which are special.

    Where the bytes of the tokens joined are the text (byte-level BPE), text grows by them; else the tokenizer decodes
    the whole answer again.
    """

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        spelled = {int(index): spelling for spelling, index in tokenizer.get_vocab().items()}
        self.bytes = [spelled.get(index, b"") for index in range(max(spelled, default=-1) + 1)]
        rows = [[index] for index in range(len(self.bytes))]
        shown, whole = tokenizer.decode(rows), tokenizer.decode(rows, skip_special_tokens=False)
        self.special = {
            i for i, (text, all_) in enumerate(zip(shown, whole, strict=True)) if not text and all_
        }
        ids = [int(i) for i in tokenizer.encode(_PROBE, add_special_tokens=False).input_ids.data[0]]
        joined = b"".join(self.bytes[i] for i in ids if i < len(self.bytes))
        self.joins = joined.decode("utf-8", "replace") == tokenizer.decode(ids) == _PROBE

    def spell(self, index, with_special):
        """The bytes of one token."""
        if index >= len(self.bytes) or (index in self.special and not with_special):
            return b""
        return self.bytes[index]


class Text:
    """The text of one answer as it grows: `settled` is all of it that further tokens cannot change."""

    def __init__(self, vocabulary, with_special=False):
        self.settled = ""
        self.vocabulary = vocabulary
        self._with_special = with_special
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._ids = []

    def add(self, index):
        """One more token; how many characters that settled."""
        before = len(self.settled)
        if self.vocabulary.joins:
            self.settled += self._decoder.decode(self.vocabulary.spell(index, self._with_special))
        else:
            self._ids.append(index)
            self._settle(self._decode().rstrip("\ufffd"))
        return len(self.settled) - before

    def end(self):
        """No more tokens: bytes of a character that never came whole are shown as �."""
        if self.vocabulary.joins:
            self.settled += self._decoder.decode(b"", final=True)
        elif self._ids:
            self._settle(self._decode())

    def _decode(self):
        return self.vocabulary.tokenizer.decode(self._ids, skip_special_tokens=not self._with_special)

    def _settle(self, text):
        if len(text) > len(self.settled) and text.startswith(self.settled):
            self.settled = text


def stop_index(text, new, stops):
    """(index, stop string) of the first stop string that ends in the last `new` characters of `text`; None if none."""
    found = [(text.find(stop, max(0, len(text) - new - len(stop) + 1)), stop) for stop in stops]
    return min((pair for pair in found if pair[0] >= 0), default=None)


def held_back(stops, included):
    """Characters at the end of a running answer that may yet be the beginning of a stop string."""
    return 0 if included or not stops else max(map(len, stops)) - 1
