"""Dialogues as token ids: one chat template, in Python and as the Jinja text that other tools read.

    bos  system sep Be brief. eos  user sep Hello eos  assistant sep Hi! eos

Each role and each content is encoded by itself, and only special tokens stand between: what is in a content moves no
border, and how an answer begins does not depend on what came before it. Names of special tokens inside a content are
broken by a space, in both forms alike, so that nothing that is said can be read as one where the whole text is parsed.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from pipeline.common.dialogues import ASSISTANT, ROLES, SYSTEM, USER, Message
from pipeline.common.errors import HallmarkError, allowed
from pipeline.tokenization.tokenizer import Tokenizer

JINJA = """\
{{%- set marks = {marks} -%}}
{{{{- {bos} -}}}}
{{%- for message in messages -%}}
{{%- set said = namespace(text=message['content']) -%}}
{{%- for mark in marks -%}}
{{%- set said.text = said.text | replace(mark, mark[:1] ~ ' ' ~ mark[1:]) -%}}
{{%- endfor -%}}
{{{{- message['role'] ~ {sep} ~ said.text ~ {eos} -}}}}
{{%- endfor -%}}
{{%- if add_generation_prompt -%}}
{{{{- '{assistant}' ~ {sep} -}}}}
{{%- endif -%}}
"""


@dataclass(frozen=True)
class Turn:
    """A message as ids: `begin` (its role) and `said` (its content and the end of the turn)."""

    role: str
    begin: tuple[int, ...]
    said: tuple[int, ...]

    @property
    def length(self) -> int:
        return len(self.begin) + len(self.said)


class ChatTemplate:
    """How dialogues are written with a tokenizer.

    A tokenizer without a `sep` token (GPT-2's) has `eos` in its place.

    Raises:
        HallmarkError: the tokenizer has no token that ends a turn.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.bos_id, self.eos_id = tokenizer.bos_id, tokenizer.require("eos")
        self.sep_id = self.eos_id if tokenizer.sep_id is None else tokenizer.sep_id
        self.marks = tokenizer.special_names
        self.begins = {
            role: (*ids, self.sep_id) for role, ids in zip(ROLES, tokenizer.encode_batch(ROLES), strict=True)
        }

    @property
    def jinja(self) -> str:
        """The template as `apply_chat_template` of `transformers` and others read it; it gives the ids of `prompt`."""
        bos, sep, eos = map(self.tokenizer.name, (self.bos_id, self.sep_id, self.eos_id))
        names = {"bos": bos, "sep": sep, "eos": eos, "marks": list(self.marks)}
        written = {name: json.dumps(value, ensure_ascii=False) for name, value in names.items()}
        return JINJA.format(**written, assistant=ASSISTANT)

    def turns(self, dialogues: Sequence[Sequence[Message]]) -> list[list[Turn]]:
        """The messages of each dialogue as ids. Raises HallmarkError for unknown roles."""
        roles = [message.role for messages in dialogues for message in messages]
        if unknown := sorted(set(roles) - set(ROLES)):
            raise HallmarkError(f"there is no role {', '.join(map(repr, unknown))}; {allowed(ROLES)}")
        said = self.tokenizer.encode_batch([self._plain(m.content) for messages in dialogues for m in messages])
        turns = [Turn(role, self.begins[role], (*ids, self.eos_id)) for role, ids in zip(roles, said, strict=True)]
        ends = list(accumulate(map(len, dialogues), initial=0))
        return [turns[first:last] for first, last in pairwise(ends)]

    def _plain(self, content: str) -> str:
        for mark in self.marks:
            content = content.replace(mark, f"{mark[:1]} {mark[1:]}")
        return content

    def row(self, turns: Sequence[Turn]) -> tuple[list[int], list[bool]]:
        """The ids of a dialogue, and which of them the assistant says: content and end of its turns."""
        ids, is_said = [self.bos_id], [False]
        for turn in turns:
            ids += turn.begin + turn.said
            is_said += [False] * len(turn.begin) + [turn.role == ASSISTANT] * len(turn.said)
        return ids, is_said

    def prompt(self, turns: Sequence[Turn]) -> list[int]:
        """The ids that an answer follows."""
        return [*self.row(turns)[0], *self.begins[ASSISTANT]]

    def newest(self, turns: Sequence[Turn], most: int) -> list[Turn] | None:
        """What is kept of a dialogue that is longer than `most` tokens.

        The first turns of the user and all up to the next one are left out, until the rest fits; a system's message
        stays. None: the last such part is too long by itself.
        """
        system = [turn for turn in turns[:1] if turn.role == SYSTEM]
        starts = [place for place, turn in enumerate(turns) if turn.role == USER and place > len(system)]
        for start in (len(system), *starts):
            kept = [*system, *turns[start:]]
            if 1 + sum(turn.length for turn in kept) <= most:
                return kept
        return None
