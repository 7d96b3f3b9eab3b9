"""Defines the errors that OKR raises on purpose. Each message is one line that says what is wrong and what to do."""


class OKRError(Exception):
    """The base of all errors of this package. The command line prints the message and exits with code 2."""


class RouterNotFound(OKRError):
    """The model has no router, or none that can be keyed (未找到任何gate层). ``log`` says what was examined."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class UnsupportedRouter(OKRError):
    """A router cannot be keyed, or it did not behave as it was proven to."""


class AlreadyAttached(OKRError):
    """The model already runs under a watermark, a recorder or a replay."""


class UnsupportedGeneration(OKRError):
    """This way of generating cannot be recorded in traces, or a generation ended after its block."""


class ModelLoadError(OKRError):
    """A model or tokenizer cannot be loaded."""


class OutOfMemory(OKRError):
    """A device or the host has too little memory."""


class InvalidTrace(OKRError):
    """A trace is damaged or inconsistent, or another model made it."""


class InvalidText(OKRError):
    """A text cannot be judged: it is empty, too short or too long, or its tokens are not the model's."""


class InvalidKey(OKRError):
    """A key or key file cannot be used. The message never holds the secret."""


class InvalidSetting(OKRError):
    """A value is out of its range: of a setting (zone, epsilon, strength), or of another argument such as alpha."""


class InvalidConfig(OKRError):
    """The configuration, the prompts or the output folder of a run cannot be used."""


class ProcessFailed(OKRError):
    """Another process of the same run failed, ended or stopped answering. What was finished before is kept."""
