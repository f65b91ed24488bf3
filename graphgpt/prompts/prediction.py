"""What is asked of a model's answers, and what it said about one sample."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AnswerSettings:
    """How a model answers many questions.

    Args:
        batch_size: Prompts per forward pass where candidates are scored.
        writing_batch_size: Answers written at once.
        max_new_tokens: A written answer is cut after so many tokens.
        generate: Whether answers are also written where there are candidates.
    """

    batch_size: int = 4
    writing_batch_size: int = 16
    max_new_tokens: int = 32
    generate: bool = False


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model said about one sample.

    Args:
        id: The instruction's.
        prompt_tokens: Length of the prompt, tokens of inputs included.
        truth: Index of the right candidate, None without candidates.
        scores: Log-likelihood of every candidate, None without candidates.
        expected: The right answer as text.
        text: Greedy answer, None when none was generated.
        references: All right answers where there are several.
        choices: The candidates, where each question has its own.
    """

    id: str
    prompt_tokens: int
    truth: int | None
    scores: list[float] | None
    expected: str
    text: str | None = None
    references: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()

    @property
    def right(self) -> tuple[str, ...]:
        """All right answers."""
        return self.references or (self.expected,)

    @property
    def answer(self) -> int | None:
        """Index of the likeliest candidate."""
        return None if self.scores is None else max(range(len(self.scores)), key=self.scores.__getitem__)
