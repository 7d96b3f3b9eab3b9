"""The errors that OKR raises on purpose. Each message is one line that says what is wrong and what to do."""


class OKRError(Exception):
    """The base of all errors of this package. The command line prints its message and exits with code 2."""


class RouterNotFound(OKRError):
    """The model has no router that can be keyed (未找到任何gate层). ``log`` says what was looked at."""

    def __init__(self, message: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.log = log


class UnsupportedRouter(OKRError):
    """A router was found but cannot be keyed, or did not behave as its kind must."""


class AlreadyAttached(OKRError):
    """The model already runs under a watermark, a recorder or a replay."""


class UnsupportedGeneration(OKRError):
    """This way of generating cannot be recorded in traces, or a generation outlived its block."""


class ModelLoadError(OKRError):
    """A model or tokenizer could not be loaded."""


class OutOfMemory(OKRError):
    """The device ran out of memory."""


class InvalidTrace(OKRError):
    """A trace is damaged, inconsistent, or does not belong to this model."""


class InvalidText(OKRError):
    """A text cannot be judged: empty, too short, too long, or not in the model's tokens."""


class InvalidKey(OKRError):
    """A key or key file cannot be used. The message never holds the secret."""


class InvalidSetting(OKRError):
    """A watermark setting (zone, epsilon, strength, top-k ...) is outside its range."""


class InvalidConfig(OKRError):
    """A run's configuration, prompts or output folder cannot be used."""


class ProcessFailed(OKRError):
    """Another process of the same run failed, ended or fell silent. What was finished before is kept."""
